//! The load averages: /proc/loadavg (proc_loadavg(5)).

use guest_protocol::facts::Load;

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// The load averages now.
pub fn averages(scratch: &mut Scratch) -> Result<Load, ReadError> {
    let text = procfs::read("/proc/loadavg", scratch)?;
    parse(text).ok_or(ReadError::Form { what: "/proc/loadavg" })
}

fn parse(text: &[u8]) -> Option<Load> {
    let mut fields = procfs::fields(text).map(fraction);
    Some(Load {
        one_minute: fields.next()??,
        five_minutes: fields.next()??,
        fifteen_minutes: fields.next()??,
    })
}

fn fraction(field: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(field).ok()?.parse().ok()?;
    // JSON has no word for the others.
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_averages_are_read() {
        let load = parse(b"0.15 1.00 12.34 2/104 7\n").unwrap();
        assert_eq!((load.one_minute, load.fifteen_minutes), (0.15, 12.34));
        assert!(parse(b"0.1 0.2\n").is_none());
        assert!(parse(b"inf NaN 1\n").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            parse(&text);
        }
    }
}
