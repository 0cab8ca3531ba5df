//! Rates of counters that only grow, until a device is replaced and they begin
//! again.

use std::collections::BTreeMap;
use std::time::Instant;

/// Two counters of each thing, as they were at the last collection.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: BTreeMap<String, Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    counters: [u64; 2],
}

impl Rates {
    /// The growth per second of both counters since the last call for `name`;
    /// `None` at the first, or when a counter went back.
    pub(super) fn update(
        &mut self,
        name: &str,
        at: Instant,
        counters: [u64; 2],
    ) -> Option<[u64; 2]> {
        let sample = Sample { at, counters };
        let Some(last) = self.last.get_mut(name) else {
            self.last.insert(name.to_owned(), sample);
            return None;
        };
        let before = std::mem::replace(last, sample);
        let seconds = at.saturating_duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let rate = |now: u64, before: u64| Some((now.checked_sub(before)? as f64 / seconds) as u64);
        Some([rate(counters[0], before.counters[0])?, rate(counters[1], before.counters[1])?])
    }

    /// Forgets things that were not updated at `at`.
    pub(super) fn forget_all_but(&mut self, at: Instant) {
        self.last.retain(|_, sample| sample.at == at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_needs_two_samples_and_survives_a_reset() {
        let mut rates = Rates::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rates.update("vda", at(0), [100, 0]), None);
        assert_eq!(rates.update("vda", at(2), [300, 10]), Some([100, 5]));
        assert_eq!(rates.update("vda", at(4), [5, 20]), None);
        assert_eq!(rates.update("vda", at(4), [5, 20]), None);
        assert_eq!(rates.update("vda", at(5), [6, 20]), Some([1, 0]));
        rates.forget_all_but(at(9));
        assert_eq!(rates.update("vda", at(9), [9, 20]), None);
    }
}
