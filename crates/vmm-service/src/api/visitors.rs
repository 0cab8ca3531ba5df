//! Who is at the unix socket: how many connections one process has, and how
//! fast it makes new ones. A process that connects without end waits for
//! itself, and leaves places to others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Connections of one process at a time: a quarter of the door, so that it
/// takes four that go wrong to fill it. `vmmctl` needs two.
const MAX_CONNECTIONS: usize = 256;

/// How far apart a process's connections are on average: 500 a second. A client
/// that asks one thing after the other, each on a connection of its own, comes
/// near that.
const SPACING: Duration = Duration::from_millis(2);

/// How many connections may come at once before they are spaced.
const BURST: u32 = 500;

/// How many processes are remembered before those are forgotten that owe
/// nothing: each command of an operator's script is a new one.
const MAX_REMEMBERED: usize = 1024;

/// Everybody at one door. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Visitors {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    processes: Mutex<HashMap<i32, Process>>,
    refused: AtomicU64,
    delayed: AtomicU64,
}

#[derive(Debug)]
struct Process {
    connections: usize,
    /// When its next connection is due if all are spaced evenly.
    due: Instant,
    /// Whether the log tells already that it was refused.
    told: bool,
}

/// A process that has too many connections.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many it may have.
    pub limit: usize,
}

impl Visitors {
    /// Lets a process's next connection in.
    pub fn enter(&self, process: i32) -> Result<Place, Refused> {
        let now = Instant::now();
        let mut processes = self.processes();
        if processes.len() >= MAX_REMEMBERED {
            processes.retain(|_, process| process.connections > 0 || process.due > now);
        }
        let entry =
            processes.entry(process).or_insert(Process { connections: 0, due: now, told: false });
        if entry.connections >= MAX_CONNECTIONS {
            let told = std::mem::replace(&mut entry.told, true);
            drop(processes);
            if !told {
                tracing::warn!(
                    process,
                    limit = MAX_CONNECTIONS,
                    "A process has too many connections to the daemon; more of it are refused."
                );
            }
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused { limit: MAX_CONNECTIONS });
        }
        entry.connections += 1;
        let begin = entry.due.checked_sub(SPACING * BURST).unwrap_or(now);
        entry.due = entry.due.max(now) + SPACING;
        if begin > now {
            self.shared.delayed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Place { visitors: self.clone(), process, begin })
    }

    /// Connections that were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Connections that had to wait, for their process made too many.
    pub fn delayed(&self) -> u64 {
        self.shared.delayed.load(Ordering::Relaxed)
    }

    /// Connections that are in, those that wait included.
    pub fn connections(&self) -> usize {
        self.processes().values().map(|process| process.connections).sum()
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<i32, Process>> {
        // Counts are never left half changed.
        self.shared.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    visitors: Visitors,
    process: i32,
    begin: Instant,
}

impl Place {
    /// Waits until it is the connection's turn.
    pub async fn turn(&self) {
        if self.begin > Instant::now() {
            sleep_until(self.begin).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(process) = self.visitors.processes().get_mut(&self.process) {
            process.connections -= 1;
            process.told &= process.connections > 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_has_so_many_connections_and_others_have_theirs() {
        let visitors = Visitors::default();
        let mut places: Vec<_> = (0..MAX_CONNECTIONS).map(|_| visitors.enter(1).unwrap()).collect();
        assert_eq!(visitors.enter(1).unwrap_err(), Refused { limit: MAX_CONNECTIONS });
        let other = visitors.enter(2).unwrap();
        places.pop();
        places.push(visitors.enter(1).unwrap());
        assert_eq!((visitors.connections(), visitors.refused()), (MAX_CONNECTIONS + 1, 1));
        drop((places, other));
        assert_eq!(visitors.connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_connects_without_end_waits_for_itself() {
        let visitors = Visitors::default();
        let start = Instant::now();
        for _ in 0..=BURST {
            visitors.enter(1).unwrap().turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..1000 {
            visitors.enter(1).unwrap().turn().await;
        }
        assert_eq!(start.elapsed(), 1000 * SPACING);
        assert_eq!(visitors.delayed(), 1000);
        visitors.enter(2).unwrap().turn().await;
        assert_eq!(start.elapsed(), 1000 * SPACING);
    }

    #[tokio::test(start_paused = true)]
    async fn processes_that_are_gone_are_forgotten() {
        let visitors = Visitors::default();
        let stays = visitors.enter(0).unwrap();
        for process in 1..10_000 {
            drop(visitors.enter(process));
            tokio::time::advance(SPACING).await;
        }
        assert!(visitors.processes().len() <= MAX_REMEMBERED);
        assert!(visitors.processes().contains_key(&stays.process));
    }
}
