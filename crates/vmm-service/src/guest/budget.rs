//! How much one guest may say: token buckets on everything of its talk that
//! costs the host. Apart from the channel because it is pure arithmetic on
//! instants.

use std::time::Duration;

use tokio::time::Instant;

/// How fast something may go on average, and how much of it at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: f32,
    pub(super) burst: f32,
}

/// What a guest pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// Bytes that were looked at; a byte that had to be looked at again
    /// counts again.
    Bytes,
    /// Objects, whole or refused.
    Messages,
    /// Values in reports: members, elements and what holds them.
    Values,
    /// Events that were published.
    Events,
    /// Their bytes.
    EventBytes,
    /// Introductions: each voids what was known and must be answered.
    Hellos,
}

const COSTS: [Cost; 6] =
    [Cost::Bytes, Cost::Messages, Cost::Values, Cost::Events, Cost::EventBytes, Cost::Hellos];

/// A rate for each cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: Rate,
    pub(super) messages: Rate,
    pub(super) values: Rate,
    pub(super) events: Rate,
    pub(super) event_bytes: Rate,
    pub(super) hellos: Rate,
    /// How often it is told that the agent came or went: a guest that opens
    /// and closes its port all the time fills neither the stream of events nor
    /// the log. Nobody is paused for it; what is not told at once is told when
    /// this allows it, as it is then.
    pub(super) changes: Rate,
    /// Lines of the log that the guest causes by what it says. Nobody is
    /// paused for it; the lines beyond are counted.
    pub(super) log_lines: Rate,
}

/// What a guest may say. The sums are chosen so that one that says all it can
/// takes a twentieth of a processor, and so that no burst is paid back for
/// longer than 20 s: a guest is taken for silent after 30.
pub(super) const LIMITS: Limits = Limits {
    // Facts come at a few KiB every few seconds; this leaves room for logs and
    // files, and at once for several reports of the largest size.
    bytes: Rate { per_second: 4.0 * MIB, burst: 8.0 * MIB },
    // A guest that is well says a few messages a second. Many small ones cost
    // the host more than their bytes tell.
    messages: Rate { per_second: 500.0, burst: 1000.0 },
    // At once twice the most that facts may hold; then a twentieth of it each
    // second.
    values: Rate { per_second: 2000.0, burst: 80_000.0 },
    // One report a second is the fastest that the agent can be told. At this
    // rate one guest alone needs minutes to fill the stream's ring, in which
    // others look for what they missed.
    events: Rate { per_second: 20.0, burst: 100.0 },
    // The ring holds 16 MiB of all guests' events.
    event_bytes: Rate { per_second: 64.0 * KIB, burst: 2.0 * MIB },
    // An agent says one when it starts and when the host does.
    hellos: Rate { per_second: 1.0, burst: 20.0 },
    changes: Rate { per_second: 0.2, burst: 10.0 },
    log_lines: Rate { per_second: 0.1, burst: 5.0 },
};

const KIB: f32 = 1024.0;
const MIB: f32 = 1024.0 * KIB;

/// A pause is never shorter, so that a guest at its limit is read in batches
/// and not one message at a time.
const MIN_PAUSE: Duration = Duration::from_millis(20);

impl Limits {
    fn rate(&self, cost: Cost) -> Rate {
        match cost {
            Cost::Bytes => self.bytes,
            Cost::Messages => self.messages,
            Cost::Values => self.values,
            Cost::Events => self.events,
            Cost::EventBytes => self.event_bytes,
            Cost::Hellos => self.hellos,
        }
    }
}

/// A guest at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// What it had too much of.
    pub(super) cost: Cost,
    /// For how long it must not be read.
    pub(super) time: Duration,
}

/// What is left of one guest's budget.
#[derive(Debug)]
pub(super) struct Budget {
    buckets: [Bucket; COSTS.len()],
}

impl Budget {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self { buckets: COSTS.map(|cost| Bucket::new(limits.rate(cost), now)) }
    }

    pub(super) fn spend(&mut self, cost: Cost, amount: usize) {
        self.buckets[cost as usize].spend(amount);
    }

    /// What the guest has too much of, and until when it must not be read;
    /// `None` while it is within its budget.
    pub(super) fn exhausted(&mut self, limits: &Limits, now: Instant) -> Option<Pause> {
        let waits = COSTS.into_iter().filter_map(|cost| {
            let time = self.buckets[cost as usize].wait(limits.rate(cost), now)?;
            Some(Pause { cost, time: time.max(MIN_PAUSE) })
        });
        waits.max_by_key(|pause| pause.time)
    }
}

/// What is left of one rate.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst.into(), filled: now }
    }

    /// May leave a debt, which is waited for.
    pub(super) fn spend(&mut self, amount: usize) {
        self.tokens -= amount as f64;
    }

    /// How long until something may be spent; `None` when it may be now.
    pub(super) fn wait(&mut self, rate: Rate, now: Instant) -> Option<Duration> {
        // Never zero, lest a wait be without end.
        let per_second = f64::from(rate.per_second).max(0.001);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * per_second;
        self.tokens = (self.tokens + gained).min(rate.burst.into());
        self.filled = now;
        let short = 1.0 - self.tokens;
        (short > 0.0).then(|| Duration::from_secs_f64(short / per_second))
    }
}

/// Things that are told at a rate, and counted when they are not.
#[derive(Debug)]
pub(super) struct Allowance {
    rate: Rate,
    bucket: Bucket,
    withheld: u64,
}

impl Allowance {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, bucket: Bucket::new(rate, now), withheld: 0 }
    }

    /// Whether one may be told now, and how many were withheld since the last
    /// one that was told.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.wait(self.rate, now).is_some() {
            return None;
        }
        self.bucket.spend(1);
        Some(std::mem::take(&mut self.withheld))
    }

    /// One was not told.
    pub(super) fn withhold(&mut self) {
        self.withheld += 1;
    }
}

/// So much that no test reaches it.
#[cfg(test)]
const ENDLESS: Rate = Rate { per_second: 1e12, burst: 1e12 };

/// For tests of something else, and of one limit alone.
#[cfg(test)]
pub(super) const UNLIMITED: Limits = Limits {
    bytes: ENDLESS,
    messages: ENDLESS,
    values: ENDLESS,
    events: ENDLESS,
    event_bytes: ENDLESS,
    hellos: ENDLESS,
    changes: ENDLESS,
    log_lines: ENDLESS,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let limits = Limits { messages: Rate { per_second: 100.0, burst: 10.0 }, ..UNLIMITED };
        let mut budget = Budget::new(&limits, start);
        let mut passed = 0;
        // Ten seconds in steps of a millisecond, as fast as it lets us.
        for step in 0..10_000 {
            let now = start + Duration::from_millis(step);
            while budget.exhausted(&limits, now).is_none() {
                budget.spend(Cost::Messages, 1);
                passed += 1;
            }
        }
        assert!((1000..=1020).contains(&passed), "{passed}");
    }

    #[test]
    fn what_was_overspent_is_waited_for_and_named() {
        let start = Instant::now();
        let limits = Limits { bytes: Rate { per_second: 1000.0, burst: 1000.0 }, ..UNLIMITED };
        let mut budget = Budget::new(&limits, start);
        budget.spend(Cost::Bytes, 3000);
        let time = Duration::from_secs_f64(2.001);
        let pause = budget.exhausted(&limits, start);
        assert_eq!(pause, Some(Pause { cost: Cost::Bytes, time }));
        assert_eq!(budget.exhausted(&limits, start + time), None);
    }

    #[test]
    fn the_longest_pause_counts() {
        let start = Instant::now();
        let slow = Rate { per_second: 1.0, burst: 1.0 };
        let limits = Limits { messages: slow, hellos: slow, ..UNLIMITED };
        let mut budget = Budget::new(&limits, start);
        budget.spend(Cost::Messages, 1);
        budget.spend(Cost::Hellos, 2);
        assert_eq!(budget.exhausted(&limits, start).unwrap().cost, Cost::Hellos);
    }

    /// Whatever one message costs, the guest is read again before it would be
    /// taken for silent.
    #[test]
    fn no_single_message_pauses_a_guest_for_as_long_as_silence_takes() {
        use guest_protocol::limits as channel;
        let silence = Duration::from_secs(3 * u64::from(channel::DEFAULT_HEARTBEAT_S));
        let worst = [
            (Cost::Bytes, channel::MAX_OBJECT_BYTES * (channel::MAX_DEPTH + 2)),
            (Cost::Values, channel::MAX_FACTS_VALUES + channel::ENVELOPE_VALUES),
            (Cost::EventBytes, channel::MAX_OBJECT_BYTES),
        ];
        for (cost, amount) in worst {
            let start = Instant::now();
            let mut budget = Budget::new(&LIMITS, start);
            budget.spend(cost, LIMITS.rate(cost).burst as usize - 1);
            assert_eq!(budget.exhausted(&LIMITS, start), None);
            budget.spend(cost, amount);
            let pause = budget.exhausted(&LIMITS, start).unwrap();
            assert!(pause.time < silence, "{pause:?}");
        }
    }

    #[test]
    fn what_is_withheld_is_counted_until_something_is_told() {
        let start = Instant::now();
        let mut allowance = Allowance::new(Rate { per_second: 1.0, burst: 1.0 }, start);
        assert_eq!(allowance.take(start), Some(0));
        for _ in 0..3 {
            assert_eq!(allowance.take(start), None);
            allowance.withhold();
        }
        let later = start + Duration::from_secs(2);
        assert_eq!(allowance.take(later), Some(3));
        assert_eq!(allowance.take(later), None);
    }
}
