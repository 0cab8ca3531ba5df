//! The recorded reports, with the places at which a replayed one differs from
//! the next: its number and the moment at which it is sent.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The recording, from the workspace's root: one message a line, the first one
/// full. `bench hub-scale --record` makes it.
pub const PATH: &str = "bench/hub-scale/reports.jsonl";

/// Reports until a guest begins again; the first is full.
pub const ROUND: usize = 10;

/// What stands before the stamp in the JSON of a replayed report, and of the
/// event that the daemon makes of it: keys are sorted.
pub const STAMP: &str = r#""replay":{"at_us":"#;

/// The least number of a report, so that all take as many digits.
pub const FIRST: u64 = 1_000_000_000;

/// A moment in microseconds, for its digits' sake.
const MOMENT: u64 = 1_700_000_000_000_000;

/// A message whose numbers are written over in place.
pub struct Report {
    bytes: Vec<u8>,
    seq: usize,
    number: usize,
    at_us: usize,
}

/// All of a round, the full one first.
pub fn load() -> Result<Vec<Report>> {
    let text = std::fs::read_to_string(PATH).with_context(|| format!("{PATH} is not readable"))?;
    let reports: Vec<Report> = text.lines().map(Report::parse).collect::<Result<_>>()?;
    ensure!(reports.len() == ROUND, "{PATH} holds {} reports, not {ROUND}", reports.len());
    Ok(reports)
}

impl Report {
    fn parse(line: &str) -> Result<Self> {
        let mut message: Value = serde_json::from_str(line)?;
        message["data"]["seq"] = json!(FIRST);
        message["data"]["facts"]["replay"] = json!({"at_us": MOMENT, "n": FIRST});
        // As the agent writes it: the name before the data.
        let (data, clock) = (&message["data"], &message["timestamp"]);
        let text = format!("{{\"event\":\"REPORT\",\"data\":{data},\"timestamp\":{clock}}}\n");
        let after = |what: &str| {
            let at = text.find(what).with_context(|| format!("{what} is not in {text}"))?;
            anyhow::Ok(at + what.len())
        };
        let (seq, at_us) = (after("\"seq\":")?, after(STAMP)?);
        let number = at_us + MOMENT.to_string().len() + ",\"n\":".len();
        Ok(Self { seq, number, at_us, bytes: text.into_bytes() })
    }

    /// The message as a guest's `number`th, sent at `at_us`.
    pub fn stamped(&mut self, number: u64, at_us: u64) -> &[u8] {
        let digits = (FIRST + number).to_string();
        self.bytes[self.seq..][..digits.len()].copy_from_slice(digits.as_bytes());
        self.bytes[self.number..][..digits.len()].copy_from_slice(digits.as_bytes());
        let digits = at_us.to_string();
        self.bytes[self.at_us..][..digits.len()].copy_from_slice(digits.as_bytes());
        &self.bytes
    }

    /// Its length on the wire.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A report's number and moment from the JSON of an event.
pub fn stamp(event: &str) -> Option<(u64, u64)> {
    let rest = &event[event.find(STAMP)? + STAMP.len()..];
    let (at_us, rest) = rest.split_once(",\"n\":")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((digits.parse::<u64>().ok()?.checked_sub(FIRST)?, at_us.parse().ok()?))
}

/// Now, in microseconds since the epoch: the clock that all processes share.
pub fn now_us() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let line = r#"{"event":"REPORT","data":{"seq":7,"full":false,"facts":{"cpu":{}}},"timestamp":{"seconds":1,"microseconds":2}}"#;
        let mut report = Report::parse(line).unwrap();
        let text = String::from_utf8(report.stamped(3, MOMENT + 5).to_vec()).unwrap();
        assert_eq!(stamp(&text), Some((3, MOMENT + 5)));
        let message: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(message["data"]["seq"], FIRST + 3);
    }
}
