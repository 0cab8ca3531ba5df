//! How long to wait before something that failed is tried again.

use std::time::Duration;

use crate::sys::random;

/// The first wait: a port that is just being plugged is there by then.
const SHORTEST: Duration = Duration::from_millis(100);

/// The longest wait: a thousand guests that lost their host find it again
/// within this, and none of them is a load until then.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double, each shortened by up to a half at random, so that many
/// guests do not come back in step.
#[derive(Debug)]
pub(super) struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: SHORTEST }
    }
}

impl BackOff {
    /// How long to wait this time.
    pub(super) fn wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        let share = random::bits_64() as f64 / u64::MAX as f64;
        full.mul_f64(1.0 - share / 2.0)
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again() {
        let mut back_off = BackOff::default();
        assert!(back_off.wait() <= SHORTEST);
        let waits: Vec<_> = (0..20).map(|_| back_off.wait()).collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[10..].iter().all(|wait| *wait >= LONGEST / 2));
        back_off.reset();
        assert!(back_off.wait() <= SHORTEST);
    }
}
