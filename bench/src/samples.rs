//! Numbers that were measured several times: median, minimum and maximum.

use std::fmt;

/// One figure, measured several times.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle of them; NaN when there are none.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Each measurement divided by the other's in the same pair.
    pub fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// `median (min – max)`, with the formatter's precision.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let precision = f.precision().unwrap_or(2);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return f.write_str("not measured");
        };
        write!(f, "{:.precision$} ({min:.precision$} – {max:.precision$})", self.median())
    }
}

/// The `percent`th percentile of durations in nanoseconds, in microseconds.
/// Sorts what it is given.
pub fn percentile_us(nanoseconds: &mut [u64], percent: usize) -> f64 {
    nanoseconds.sort_unstable();
    let index = (nanoseconds.len() * percent / 100).min(nanoseconds.len().saturating_sub(1));
    nanoseconds.get(index).map_or(f64::NAN, |&ns| ns as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_an_odd_and_the_mean_of_the_two_middles_of_an_even_count() {
        let mut samples = Samples::default();
        for value in [3.0, 1.0, 2.0] {
            samples.push(value);
        }
        assert_eq!(format!("{samples:.1}"), "2.0 (1.0 – 3.0)");
        samples.push(10.0);
        assert_eq!(format!("{:.1}", samples.median()), "2.5");
    }

    #[test]
    fn a_percentile_of_one_is_that_one() {
        assert_eq!(format!("{:.1}", percentile_us(&mut [7_000], 99)), "7.0");
        assert!(percentile_us(&mut [], 50).is_nan());
    }
}
