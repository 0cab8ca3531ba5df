//! How many messages the host may send: a token bucket.

use std::time::{Duration, Instant};

/// Requests per second that are heard, and how many may come at once. An
/// honest host asks one after another and stays far below; what is more comes
/// from a flood, and waits in the kernel.
const PER_SECOND: f64 = 50_000.0;

/// For how long nothing is heard once the budget is spent.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What is left.
#[derive(Debug)]
pub(super) struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    /// A full budget.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: PER_SECOND, at: now }
    }

    /// Takes one message's share; `false` when nothing is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + elapsed * PER_SECOND).min(PER_SECOND);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_and_a_flood_is_not() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let heard = (0..200_000).filter(|_| budget.take(now)).count();
        assert_eq!(heard, PER_SECOND as usize);
        assert!(budget.take(now + PAUSE));
    }
}
