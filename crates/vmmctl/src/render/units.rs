//! Numbers with their units, for people: IEC prefixes, three significant
//! digits, times in the two largest units that matter.

const PREFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// `1.50 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let (number, prefix) = scaled(bytes);
    format!("{number} {prefix}B")
}

/// `1.50Gi`, for columns whose title says that these are bytes.
pub(crate) fn short_bytes(bytes: u64) -> String {
    let (number, prefix) = scaled(bytes);
    format!("{number}{prefix}")
}

/// `0.31/2.00 GiB`: a part in the unit of its whole.
pub(crate) fn part_of(part: u64, whole: u64) -> String {
    let (number, prefix, part) = part_and_whole(part, whole);
    format!("{part}/{number} {prefix}B")
}

/// `0.31/2.00Gi`, as [`short_bytes`].
pub(crate) fn short_part_of(part: u64, whole: u64) -> String {
    let (number, prefix, part) = part_and_whole(part, whole);
    format!("{part}/{number}{prefix}")
}

/// `12.5 %`; absurd numbers are shown as the nearest sane ones.
pub(crate) fn percent(percent: f64) -> String {
    format!("{} %", short_percent(percent))
}

/// `12.5`, for columns whose title has the sign.
pub(crate) fn short_percent(percent: f64) -> String {
    let percent = if percent.is_finite() { percent.clamp(0.0, 9999.0) } else { 0.0 };
    format!("{percent:.1}")
}

/// Which share of `whole` is `part`, 0 to 100.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    // Exact enough for a percentage.
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs three digits")]
    let share = part as f64 / whole as f64 * 100.0;
    share.min(100.0)
}

/// `0.4 s`, `12 s`, `3 min 5 s`, `2 h 5 min`, `4 d 3 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => pair(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => pair(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => pair(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// `0.4s`, `12s`, `3m05s`, `2h05m`, `4d03h`: never wider than six columns
/// within a human lifetime.
pub(crate) fn short_duration(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `1 VM`, `2 VMs`, `10,000 VMs`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// `9,812`: digits by threes.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        return format!("{large} {large_unit}");
    }
    format!("{large} {large_unit} {small} {small_unit}")
}

/// The prefix under which a number has one to four digits before the point.
fn magnitude(bytes: u64) -> usize {
    // 1023.6 MiB is shown as 1.00 GiB: rounding must not make a number of 1024.
    let mut magnitude = 0;
    while magnitude + 1 < PREFIXES.len() && in_unit(bytes, magnitude) >= 1023.5 {
        magnitude += 1;
    }
    magnitude
}

fn in_unit(bytes: u64, magnitude: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64;
    value / 1024_f64.powi(i32::try_from(magnitude).unwrap_or(0))
}

fn scaled(bytes: u64) -> (String, &'static str) {
    let magnitude = magnitude(bytes);
    if magnitude == 0 {
        return (bytes.to_string(), "");
    }
    (three_digits(in_unit(bytes, magnitude)), PREFIXES[magnitude])
}

fn part_and_whole(part: u64, whole: u64) -> (String, &'static str, String) {
    let magnitude = magnitude(whole);
    let whole_text = scaled(whole);
    let part = in_unit(part, magnitude);
    let part = if magnitude == 0 { format!("{part:.0}") } else { digits_like(part, &whole_text.0) };
    (whole_text.0, whole_text.1, part)
}

/// As many decimals as the whole has, so that the two can be compared.
fn digits_like(part: f64, whole: &str) -> String {
    let decimals = whole.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    format!("{part:.decimals$}")
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1536 * MIB), "1.50 GiB");
        assert_eq!(bytes(15 * MIB + MIB / 3), "15.3 MiB");
        assert_eq!(bytes(512 * MIB), "512 MiB");
        assert_eq!(bytes(1000 * MIB), "1000 MiB");
        assert_eq!(bytes(1024 * MIB - 1), "1.00 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(short_bytes(1536), "1.50Ki");
    }

    #[test]
    fn a_part_has_the_unit_of_its_whole() {
        assert_eq!(part_of(312 * MIB, 2048 * MIB), "0.30/2.00 GiB");
        assert_eq!(part_of(312 * MIB, 512 * MIB), "312/512 MiB");
        assert_eq!(short_part_of(1, 512), "1/512");
    }

    #[test]
    fn shares_are_sane() {
        assert!((share(1, 4) - 25.0).abs() < 1e-9);
        assert!(share(1, 0).abs() < 1e-9);
        assert!((share(9, 4) - 100.0).abs() < 1e-9);
        assert_eq!(percent(f64::NAN), "0.0 %");
        assert_eq!(short_percent(12.34), "12.3");
    }

    #[test]
    fn large_counts_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(count(10_000, "VM", "VMs"), "10,000 VMs");
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(0.42), "0.4 s");
        assert_eq!(duration(59.6), "1 min");
        assert_eq!(duration(185.0), "3 min 5 s");
        assert_eq!(duration(7500.0), "2 h 5 min");
        assert_eq!(duration(4.0 * 86_400.0 + 3.0 * 3600.0), "4 d 3 h");
        assert_eq!(duration(-5.0), "0.0 s");
        assert_eq!(short_duration(185.0), "3m05s");
        assert_eq!(short_duration(7500.0), "2h05m");
    }

    proptest! {
        #[test]
        fn numbers_stay_narrow(number in any::<u64>()) {
            prop_assert!(bytes(number).len() <= 8);
            prop_assert!(short_bytes(number).len() <= 6);
        }

        #[test]
        fn times_stay_narrow(seconds in 0.0..3e9f64) {
            prop_assert!(short_duration(seconds).len() <= 9);
            prop_assert!(duration(seconds).len() <= 14);
        }
    }
}
