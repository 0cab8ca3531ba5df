//! How far the guest has come in this boot. Each stage is told once, with the
//! moment when it was seen; what cannot be seen is not told.

use std::path::PathBuf;
use std::time::Duration;

use guest_protocol::message::{Lifecycle, Stage};
use serde_json::{Value, json};

use crate::sys::{boot, network, time};

/// The stages of a boot that are looked for after the agent's start.
const WATCHED: [Stage; 4] =
    [Stage::NetworkOnline, Stage::AddressAcquired, Stage::LoginReady, Stage::BootComplete];

/// For how long a boot is watched closely. A stage that comes later is seen
/// with the next report.
const CLOSE_WATCH: Duration = Duration::from_secs(600);

/// How the end of the boot is known.
#[derive(Debug)]
enum BootEnd {
    /// systemd says so.
    ServiceManager(boot::ServiceManager),
    /// The guest's owner makes a file.
    File(PathBuf),
    /// Nobody can be asked: whatever starts the agent has booted the machine.
    AgentStart,
}

/// The stages that were reached, in the order in which they were seen.
#[derive(Debug)]
pub struct Boot {
    reached: Vec<Lifecycle>,
    end: BootEnd,
    watched_until: Duration,
}

impl Boot {
    /// Begins to watch; the agent has started.
    pub fn watch(complete_file: Option<PathBuf>) -> Self {
        let end = match (complete_file, boot::ServiceManager::ask) {
            (Some(path), _) => BootEnd::File(path),
            (None, ask) => ask().map_or(BootEnd::AgentStart, BootEnd::ServiceManager),
        };
        let watched_until = time::uptime() + CLOSE_WATCH;
        let mut boot = Self { reached: Vec::new(), end, watched_until };
        boot.reached.push(Lifecycle { stage: Stage::KernelStarted, uptime_ms: 0, detail: None });
        boot.reach(Stage::AgentStarted, None);
        boot.look();
        boot
    }

    /// Everything that was reached.
    pub fn stages(&self) -> &[Lifecycle] {
        &self.reached
    }

    /// Whether to look again soon, rather than with the next report.
    pub fn is_moving(&self) -> bool {
        time::uptime() < self.watched_until && WATCHED.iter().any(|&stage| !self.has(stage))
    }

    /// Looks for the stages that were not reached yet.
    pub fn look(&mut self) {
        if !self.has(Stage::NetworkOnline) || !self.has(Stage::AddressAcquired) {
            self.look_at_network();
        }
        if !self.has(Stage::LoginReady) && boot::is_login_ready() {
            self.reach(Stage::LoginReady, None);
        }
        if !self.has(Stage::BootComplete)
            && let Some(detail) = self.end_of_boot()
        {
            self.reach(Stage::BootComplete, Some(detail));
        }
    }

    /// The machine goes down.
    pub fn begin_shutdown(&mut self) {
        self.reach(Stage::ShutdownStarted, None);
    }

    /// The machine did not go down after all.
    pub fn abandon_shutdown(&mut self) {
        self.reached.retain(|it| it.stage != Stage::ShutdownStarted);
    }

    fn look_at_network(&mut self) {
        let found = match network::reachability() {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "How far the network is cannot be seen.");
                return;
            }
        };
        if let Some(interface) = found.online {
            self.reach(Stage::NetworkOnline, Some(json!({ "interface": interface })));
        }
        if let Some(address) = found.address {
            let detail = json!({
                "interface": address.interface,
                "address": format!("{}/{}", address.ip, address.prefix),
            });
            self.reach(Stage::AddressAcquired, Some(detail));
        }
    }

    fn end_of_boot(&mut self) -> Option<Value> {
        match &mut self.end {
            BootEnd::ServiceManager(manager) => {
                Some(json!({ "by": "systemd", "state": manager.state()? }))
            }
            BootEnd::File(path) => path.exists().then(|| json!({ "by": "file" })),
            BootEnd::AgentStart => Some(json!({ "by": "agent-started" })),
        }
    }

    fn has(&self, stage: Stage) -> bool {
        self.reached.iter().any(|it| it.stage == stage)
    }

    fn reach(&mut self, stage: Stage, detail: Option<Value>) {
        if self.has(stage) {
            return;
        }
        let uptime_ms = time::uptime().as_millis() as u64;
        tracing::info!(?stage, uptime_ms, "The guest reached a stage of its life.");
        self.reached.push(Lifecycle { stage, uptime_ms, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(boot: &Boot) -> Vec<Stage> {
        boot.stages().iter().map(|it| it.stage).collect()
    }

    #[test]
    fn a_boot_begins_with_the_kernel_and_each_stage_stands_once() {
        let mut boot = Boot::watch(None);
        boot.look();
        boot.begin_shutdown();
        boot.begin_shutdown();
        let stages = names(&boot);
        assert_eq!(stages[..2], [Stage::KernelStarted, Stage::AgentStarted]);
        assert_eq!(*stages.last().unwrap(), Stage::ShutdownStarted);
        assert_eq!(stages.iter().filter(|&&it| it == Stage::ShutdownStarted).count(), 1);
        assert_eq!(boot.stages()[0].uptime_ms, 0);
    }

    #[test]
    fn the_owners_file_ends_the_boot_when_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("complete");
        let mut boot = Boot::watch(Some(path.clone()));
        assert!(!names(&boot).contains(&Stage::BootComplete));
        assert!(boot.is_moving());
        std::fs::write(&path, "").unwrap();
        boot.look();
        assert!(names(&boot).contains(&Stage::BootComplete));
    }
}
