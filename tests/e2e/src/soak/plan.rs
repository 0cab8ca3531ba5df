//! What one run of a soak is: its rounds, its seed, and what it has counted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a run says how far it is: a look every now and then must find
/// something new, and an hour must not fill a screen ten times.
const PROGRESS: Duration = Duration::from_secs(30);

/// Spreads neighbouring rounds over all seeds: 2^64 divided by the golden
/// ratio, as splitmix64 steps.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What was counted, by what it is called.
pub type Counts = BTreeMap<&'static str, u64>;

/// One run of a soak. A handle: clones are the same run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What everything that is chosen at random follows from.
    pub seed: u64,
    /// Which rounds, counted from 1.
    pub rounds: Range<u64>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    told: Instant,
    round: u64,
    counts: Counts,
}

impl Plan {
    /// `rounds` rounds, of which the first has the number `from`.
    pub fn new(seed: u64, from: u64, rounds: u64) -> Self {
        let now = Instant::now();
        let inner = Inner { began: now, told: now, round: from, counts: Counts::new() };
        Self { seed, rounds: from..from + rounds, inner: Arc::new(Mutex::new(inner)) }
    }

    /// Begins a round, says now and then how far the run is, and gives what
    /// the round is to choose by. That depends on the seed and the round
    /// alone, so that a run can begin with any round.
    pub fn begin(&self, round: u64) -> fastrand::Rng {
        let mut inner = self.inner();
        inner.round = round;
        if inner.told.elapsed() >= PROGRESS {
            inner.told = Instant::now();
            let minutes = inner.began.elapsed().as_secs_f64() / 60.0;
            println!(
                "round {round} of {}, {minutes:.1} minutes: {}",
                self.rounds.end - 1,
                told(&inner.counts)
            );
        }
        fastrand::Rng::with_seed(self.seed.wrapping_add(round.wrapping_mul(STEP)))
    }

    /// Counts one more.
    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts so many more; none is a count as well.
    pub fn add(&self, what: &'static str, number: u64) {
        *self.inner().counts.entry(what).or_default() += number;
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.inner().counts.clone()
    }

    /// The round that is played.
    pub fn round(&self) -> u64 {
        self.inner().round
    }

    /// How long the run has lasted.
    pub fn elapsed(&self) -> Duration {
        self.inner().began.elapsed()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as a line of prose.
pub fn told(counts: &Counts) -> String {
    let counts: Vec<String> =
        counts.iter().map(|(what, number)| format!("{number} {what}")).collect();
    if counts.is_empty() { "nothing counted".to_owned() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_chooses_the_same_whichever_round_a_run_begins_with() {
        let (whole, part) = (Plan::new(7, 1, 10), Plan::new(7, 5, 1));
        assert_eq!(part.rounds, 5..6);
        assert_eq!(whole.begin(5).u64(..), part.begin(5).u64(..));
        assert_ne!(whole.begin(5).u64(..), whole.begin(6).u64(..));
        assert_ne!(whole.begin(5).u64(..), Plan::new(8, 1, 10).begin(5).u64(..));
        assert_eq!(whole.round(), 5);
    }

    #[test]
    fn counts_are_those_of_all_handles() {
        let plan = Plan::new(7, 1, 1);
        plan.clone().count("kills");
        plan.add("kills", 2);
        plan.add("orphans", 0);
        assert_eq!(told(&plan.counts()), "3 kills, 0 orphans");
    }
}
