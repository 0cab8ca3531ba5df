//! The processors.

use std::time::Instant;

use guest_protocol::facts::{Cpu, Facts};

use super::Collector;
use crate::sys::{ReadError, Scratch, cpu};

/// Turns the kernel's growing times into shares of the last interval.
#[derive(Debug, Default)]
pub(super) struct CpuCollector {
    model: Option<String>,
    last: Option<cpu::Times>,
}

impl Collector for CpuCollector {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(
        &mut self,
        _: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        let now = cpu::times(buffer)?;
        let model = self.model.get_or_insert_with(|| cpu::model(buffer).unwrap_or_default());
        let shares = self.last.replace(now).and_then(|last| shares(last, now));
        facts.cpu = Some(Cpu {
            model: model.clone(),
            online: now.online,
            usage_percent: shares.map(|(usage, _)| usage),
            steal_percent: shares.map(|(_, steal)| steal),
        });
        Ok(())
    }
}

/// The shares of time that were not idle, and stolen, in percent; `None` when
/// no time passed. The idle time may go back a little, as proc_stat(5) warns.
fn shares(last: cpu::Times, now: cpu::Times) -> Option<(f64, f64)> {
    let total = now.total.checked_sub(last.total).filter(|&ticks| ticks > 0)?;
    let share = |ticks: u64| tenths(100.0 * ticks.min(total) as f64 / total as f64);
    let idle = now.idle.saturating_sub(last.idle).min(total);
    Some((share(total - idle), share(now.steal.saturating_sub(last.steal))))
}

/// A tenth of a percent is more than one interval can tell.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times(total: u64, idle: u64, steal: u64) -> cpu::Times {
        cpu::Times { total, idle, steal, online: 1 }
    }

    #[test]
    fn shares_are_of_the_interval() {
        let shares = |last, now| super::shares(last, now);
        assert_eq!(shares(times(0, 0, 0), times(300, 200, 3)), Some((33.3, 1.0)));
        assert_eq!(shares(times(300, 200, 3), times(300, 200, 3)), None);
        assert_eq!(shares(times(300, 200, 3), times(400, 190, 3)), Some((100.0, 0.0)));
    }

    #[test]
    fn the_first_collection_has_no_shares_and_the_second_may() {
        let (mut collector, mut facts) = (CpuCollector::default(), Facts::default());
        collector.collect(Instant::now(), &mut Scratch::new(), &mut facts).unwrap();
        let cpu = facts.cpu.unwrap();
        assert!(cpu.online >= 1);
        assert_eq!(cpu.usage_percent, None);
    }

    proptest! {
        #[test]
        fn shares_are_percentages(a: (u64, u64, u64), b: (u64, u64, u64)) {
            if let Some((usage, steal)) = shares(times(a.0, a.1, a.2), times(b.0, b.1, b.2)) {
                prop_assert!((0.0..=100.0).contains(&usage));
                prop_assert!((0.0..=100.0).contains(&steal));
            }
        }
    }
}
