//! The moment that everything on a page refers to, and how times are written.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Now, and where the operator is.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    pub(crate) now: Timestamp,
    zone: TimeZone,
}

impl Clock {
    /// The system's clock.
    pub(crate) fn now() -> Self {
        Self { now: Timestamp::now(), zone: TimeZone::system() }
    }

    #[cfg(test)]
    pub(crate) fn at(now: &str) -> Self {
        Self { now: now.parse().expect("a moment"), zone: TimeZone::UTC }
    }

    /// Seconds since `then`; 0 when the clocks disagree.
    pub(crate) fn since(&self, then: Timestamp) -> f64 {
        self.now.duration_since(then).as_secs_f64().max(0.0)
    }

    /// `2026-11-21 14:03:07`, by the operator's clock.
    pub(crate) fn local(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `14:03:07`.
    pub(crate) fn time_of_day(&self) -> String {
        self.now.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }
}
