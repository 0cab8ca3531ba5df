//! How long the guest has been up.

use std::time::Instant;

use guest_protocol::facts::{Facts, Uptime};

use super::Collector;
use crate::sys::{ReadError, Scratch, time};

/// How far the boot's moment may drift before it is told anew, in seconds: less
/// is the clock being disciplined, and would be a change in every report.
const DRIFT_S: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct UptimeCollector {
    boot_time_s: Option<u64>,
}

impl Collector for UptimeCollector {
    fn name(&self) -> &'static str {
        "uptime"
    }

    fn collect(&mut self, _: Instant, _: &mut Scratch, facts: &mut Facts) -> Result<(), ReadError> {
        let uptime_s = time::uptime().as_secs();
        facts.uptime = Some(Uptime {
            boot_time_s: self.boot_time(time::wall_clock().as_secs(), uptime_s),
            uptime_s,
        });
        Ok(())
    }
}

impl UptimeCollector {
    fn boot_time(&mut self, now_s: u64, uptime_s: u64) -> u64 {
        let computed = now_s.saturating_sub(uptime_s);
        let told = *self.boot_time_s.get_or_insert(computed);
        if told.abs_diff(computed) < DRIFT_S {
            return told;
        }
        self.boot_time_s = Some(computed);
        computed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_of_the_clock_moves_the_boots_moment() {
        let mut collector = UptimeCollector::default();
        assert_eq!(collector.boot_time(1000, 10), 990);
        assert_eq!(collector.boot_time(1011, 20), 990);
        assert_eq!(collector.boot_time(5000, 30), 4970);
    }
}
