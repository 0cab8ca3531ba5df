//! How much one guest may say: token buckets on bytes and messages. Apart from
//! the channel because it is pure arithmetic on instants.

use std::time::Duration;

use tokio::time::Instant;

/// How fast a guest may talk on average, and how much at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) burst: u32,
}

/// Facts come at a few KiB every few seconds; 4 MiB/s leaves room for logs and
/// files, and 8 MiB at once for several full reports of the largest size.
pub(super) const BYTES: Rate = Rate { per_second: 4 * 1024 * 1024, burst: 8 * 1024 * 1024 };

/// A guest that is well says a few messages a second. Many small ones cost the
/// host more than their bytes tell.
pub(super) const MESSAGES: Rate = Rate { per_second: 500, burst: 1000 };

/// A pause is never shorter, so that a guest at its limit is read in batches
/// and not one message at a time.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// What is left of one guest's budget.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: Bucket,
    messages: Bucket,
}

impl Budget {
    pub(super) fn new(bytes: Rate, messages: Rate, now: Instant) -> Self {
        Self { bytes: Bucket::new(bytes, now), messages: Bucket::new(messages, now) }
    }

    pub(super) fn spend_bytes(&mut self, bytes: usize) {
        self.bytes.tokens -= bytes as f64;
    }

    pub(super) fn spend_message(&mut self) {
        self.messages.tokens -= 1.0;
    }

    /// Until when the guest must not be read; `None` while it is within its
    /// budget.
    pub(super) fn exhausted(&mut self, now: Instant) -> Option<Instant> {
        let wait = self.bytes.wait(now).max(self.messages.wait(now))?;
        Some(now + wait.max(MIN_PAUSE))
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst), filled: now }
    }

    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let per_second = f64::from(self.rate.per_second.max(1));
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * per_second;
        self.tokens = (self.tokens + gained).min(f64::from(self.rate.burst));
        self.filled = now;
        let short = 1.0 - self.tokens;
        (short > 0.0).then(|| Duration::from_secs_f64(short / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Rate = Rate { per_second: 100, burst: 10 };

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut budget = Budget::new(BYTES, SMALL, start);
        let mut passed = 0;
        // Ten seconds in steps of a millisecond, as fast as it lets us.
        for step in 0..10_000 {
            let now = start + Duration::from_millis(step);
            while budget.exhausted(now).is_none() {
                budget.spend_message();
                passed += 1;
            }
        }
        assert!((1000..=1020).contains(&passed), "{passed}");
    }

    #[test]
    fn what_was_overspent_is_waited_for() {
        let start = Instant::now();
        let rate = Rate { per_second: 1000, burst: 1000 };
        let mut budget = Budget::new(rate, SMALL, start);
        budget.spend_bytes(3000);
        let until = budget.exhausted(start).unwrap();
        assert_eq!(until - start, Duration::from_secs_f64(2.001));
        assert!(budget.exhausted(until).is_none());
    }
}
