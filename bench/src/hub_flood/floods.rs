//! What a hostile guest may say, endlessly.

use guest_protocol::codec::RESET;
use guest_protocol::limits::{MAX_DEPTH, MAX_FACTS_CONTAINERS, MAX_OBJECT_BYTES};

/// How much is made at once of what consists of small messages, in bytes.
const CHUNK: usize = 64 * 1024;
/// Members of the large facts: enough for half of what facts may hold.
const MEMBERS: usize = MAX_FACTS_CONTAINERS / 2;
/// The length of each member's text: all together come near the most that an
/// object may have.
const TEXT: usize = 450;
/// Reports until facts that grow begin anew: more than they may hold.
const GROWTH: u64 = 2 * MAX_FACTS_CONTAINERS as u64;
/// The guest's clock, which nobody compares.
const CLOCK: &str = r#"{"seconds":1700000000,"microseconds":0}"#;

/// Ways to flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None: a heartbeat a second.
    Quiet,
    /// Random bytes.
    Garbage,
    /// Small valid messages.
    Heartbeats,
    /// Introductions, each with a session of its own.
    Hellos,
    /// Full reports of nearly the largest size.
    FullReports,
    /// Patches that each add something, past the limit and again from the start.
    GrowingFacts,
    /// Objects that nest without end.
    DeepJson,
    /// Objects of the largest size, full of the smallest values.
    WideJson,
    /// Connections that end as soon as they begin.
    HangUps,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Quiet,
        Self::Garbage,
        Self::Heartbeats,
        Self::Hellos,
        Self::FullReports,
        Self::GrowingFacts,
        Self::DeepJson,
        Self::WideJson,
        Self::HangUps,
    ];

    /// As the table shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "nothing",
            Self::Garbage => "garbage",
            Self::Heartbeats => "small valid messages",
            Self::Hellos => "hellos",
            Self::FullReports => "full reports of 0.9 MiB",
            Self::GrowingFacts => "facts that grow",
            Self::DeepJson => "deep JSON",
            Self::WideJson => "wide JSON",
            Self::HangUps => "its end of the channel closes at once",
        }
    }
}

/// One flood: bytes without end.
pub struct Flood {
    kind: Kind,
    bytes: Vec<u8>,
    /// Counts what must differ from one message to the next.
    turn: u64,
}

impl Flood {
    /// Its start.
    pub fn new(kind: Kind) -> Self {
        let bytes = match kind {
            Kind::Garbage => garbage(),
            Kind::FullReports => full_report().into_bytes(),
            Kind::DeepJson => deep().into_bytes(),
            Kind::WideJson => wide().into_bytes(),
            Kind::Heartbeats => heartbeat().repeat(CHUNK / heartbeat().len()).into_bytes(),
            Kind::Quiet | Kind::Hellos | Kind::GrowingFacts | Kind::HangUps => Vec::new(),
        };
        Self { kind, bytes, turn: 0 }
    }

    /// What comes next.
    pub fn next(&mut self) -> &[u8] {
        let message: fn(u64) -> String = match self.kind {
            Kind::Hellos => hello,
            Kind::GrowingFacts => growth,
            _ => return &self.bytes,
        };
        self.bytes.clear();
        while self.bytes.len() < CHUNK {
            self.bytes.extend(message(self.turn).as_bytes());
            self.turn += 1;
        }
        &self.bytes
    }
}

/// An introduction. The first one is that of the session in which all else is
/// said.
pub fn hello(session: u64) -> String {
    event(
        "HELLO",
        &format!(
            r#"{{"protocols":[1],"session":"{session:032x}","agent_id":"flood","agent":"flood/1","boot_id":"b","capabilities":["guest-ping"],"clock":{CLOCK}}}"#
        ),
    )
}

/// The least that a guest says, after what ends whatever was cut off.
pub fn sign_of_life() -> Vec<u8> {
    [&[RESET], heartbeat().as_bytes()].concat()
}

fn heartbeat() -> String {
    event("HEARTBEAT", &format!(r#"{{"seq":1,"session":"{:032x}","clock":{CLOCK}}}"#, 0))
}

fn event(name: &str, data: &str) -> String {
    format!("{{\"event\":\"{name}\",\"data\":{data},\"timestamp\":{CLOCK}}}\n")
}

fn report(seq: u64, full: bool, facts: &str) -> String {
    event("REPORT", &format!(r#"{{"seq":{seq},"full":{full},"facts":{facts}}}"#))
}

/// Bytes of every value, the same in each run.
fn garbage() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..CHUNK / 8).flat_map(|_| next()).collect()
}

fn full_report() -> String {
    let text = "x".repeat(TEXT);
    let members: Vec<String> =
        (0..MEMBERS).map(|index| format!(r#""/{index}":{{"device":"{text}"}}"#)).collect();
    report(1, true, &format!(r#"{{"filesystems":{{{}}}}}"#, members.join(",")))
}

fn growth(turn: u64) -> String {
    let place = turn % GROWTH;
    let facts = format!(r#"{{"filesystems":{{"/{place}":{{"device":"{turn:0100}"}}}}}}"#);
    report(place + 1, place == 0, &facts)
}

fn deep() -> String {
    let depth = MAX_OBJECT_BYTES / 16;
    report(1, true, &format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth)))
}

fn wide() -> String {
    // As deep as is allowed, for that costs most.
    let (open, close) = ("[".repeat(MAX_DEPTH - 4), "]".repeat(MAX_DEPTH - 4));
    let zeros = "0,".repeat(MAX_OBJECT_BYTES / 2 - 256);
    report(1, true, &format!(r#"{{"filesystems":{open}{zeros}0{close}}}"#))
}

#[cfg(test)]
mod tests {
    use guest_protocol::codec::{Decoder, Discard, Frame, MAX_FEED_BYTES, parse_guest_message};

    use super::*;

    /// What the host makes of the first two of a flood's chunks.
    fn frames(kind: Kind) -> (usize, usize) {
        let mut flood = Flood::new(kind);
        let (mut decoder, mut messages, mut refused) = (Decoder::default(), 0, 0);
        for _ in 0..2 {
            for part in flood.next().chunks(MAX_FEED_BYTES) {
                decoder.feed(part);
                while let Some(frame) = decoder.next_frame() {
                    match frame {
                        Frame::Object(object) if parse_guest_message(object).is_ok() => {
                            messages += 1;
                        }
                        Frame::Discarded(Discard::Garbage, _) | Frame::Sync => {}
                        Frame::Object(_) | Frame::Discarded(..) => refused += 1,
                    }
                }
            }
        }
        (messages, refused)
    }

    #[test]
    fn what_is_meant_to_be_valid_is_and_nothing_else() {
        for kind in [Kind::Heartbeats, Kind::Hellos, Kind::GrowingFacts] {
            let (messages, refused) = frames(kind);
            assert!(messages > 100 && refused == 0, "{kind:?}: {messages} {refused}");
        }
        assert_eq!(frames(Kind::FullReports), (2, 0));
        assert_eq!(frames(Kind::Garbage).0, 0);
        for kind in [Kind::DeepJson, Kind::WideJson] {
            let (messages, refused) = frames(kind);
            assert!(messages == 0 && refused > 0, "{kind:?}: {messages} {refused}");
        }
    }

    #[test]
    fn a_large_report_is_as_large_as_the_table_says() {
        let mib = full_report().len() as f64 / (1024.0 * 1024.0);
        assert!((0.85..1.0).contains(&mib), "{mib}");
    }
}
