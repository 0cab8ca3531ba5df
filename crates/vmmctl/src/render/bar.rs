//! A small bar for a share of something. Lines instead of blocks: bars that
//! stand above each other must not grow together.

use super::text::{Style, Text};

/// From where on a share is worth a look, in percent.
const WARNING_PERCENT: f64 = 75.0;

/// From where on a share is close to the end, in percent.
const BAD_PERCENT: f64 = 90.0;

/// A bar of `width` columns, filled for `percent` of it, in the colour that
/// the share deserves.
pub(crate) fn bar(percent: f64, width: usize) -> Text {
    let percent = if percent.is_finite() { percent.clamp(0.0, 100.0) } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "a bar has few columns")]
    let halves = percent / 100.0 * (width * 2) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within width")]
    let halves = (halves.round() as usize).min(width * 2);
    let mut filled = "━".repeat(halves / 2);
    if !halves.is_multiple_of(2) {
        filled.push('╾');
    }
    let rest = width - halves.div_ceil(2);
    Text::styled(level(percent), filled).and(Style::Faint, "─".repeat(rest))
}

/// The style that a share deserves.
pub(crate) fn level(percent: f64) -> Style {
    if percent >= BAD_PERCENT {
        Style::Bad
    } else if percent >= WARNING_PERCENT {
        Style::Warning
    } else {
        Style::Good
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fills_by_halves() {
        assert_eq!(bar(0.0, 4).to_line(false), "────");
        assert_eq!(bar(50.0, 4).to_line(false), "━━──");
        assert_eq!(bar(36.0, 4).to_line(false), "━╾──");
        assert_eq!(bar(100.0, 4).to_line(false), "━━━━");
        assert_eq!(bar(f64::NAN, 2).to_line(false), "──");
    }

    proptest! {
        #[test]
        fn is_as_wide_as_asked(percent in any::<f64>(), width in 0usize..60) {
            prop_assert_eq!(bar(percent, width).width(), width);
        }
    }
}
