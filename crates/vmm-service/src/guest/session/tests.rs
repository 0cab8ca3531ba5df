//! Property tests of the conversation, without a socket: whatever is lost or
//! sent, the host comes to know what the guest last said.

use guest_protocol::codec::{Decoder, Frame, encode_event};
use guest_protocol::merge_patch;
use guest_protocol::message::{Lifecycle, Stage};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::events::EventBus;
use crate::guest::budget::LIMITS;

const HEARTBEAT: Duration = Duration::from_secs(10);

fn session() -> Session {
    let state = GuestState::new(Uuid::nil(), EventBus::default(), &LIMITS);
    Session::new(Arc::new(state), HEARTBEAT)
}

fn say(session: &mut Session, event: Event, now: Instant) {
    let mut bytes = Vec::new();
    encode_event(&TimedEvent { event, timestamp: clock() }, &mut bytes);
    session.receive(&bytes, now, &mut Budget::new(&LIMITS, now));
}

fn hello(name: &str) -> Hello {
    Hello {
        protocols: vec![1],
        session: name.to_owned(),
        agent_id: String::new(),
        agent: String::new(),
        boot_id: String::new(),
        capabilities: Vec::new(),
        clock: clock(),
    }
}

/// The requests in `out`, which must be nothing but requests.
fn requests(out: &[u8]) -> Vec<Request> {
    let mut decoder = Decoder::default();
    decoder.feed(out);
    let mut requests = Vec::new();
    while let Some(frame) = decoder.next_frame() {
        match frame {
            Frame::Object(object) => requests.push(codec::parse_request(object).unwrap()),
            Frame::Sync => {}
            Frame::Discarded(..) => panic!("the host wrote garbage"),
        }
    }
    requests
}

/// A guest whose facts change, and which sends the difference.
struct Teller {
    now: Instant,
    seq: u64,
    facts: Value,
    reported: Value,
}

impl Teller {
    fn change(&mut self, disk: u8, bytes: Option<u64>) {
        let change = bytes.map(|bytes| json!({"size_bytes": bytes}));
        let patch = json!({"disks": {format!("vd{disk}"): change}});
        merge_patch::apply(&mut self.facts, &patch);
    }

    /// Reports to `session`, unless it gets lost on the way, and answers what
    /// the host asks then.
    fn report(&mut self, session: &mut Session, lost: bool) {
        if let Some(facts) = merge_patch::diff(&self.reported, &self.facts) {
            self.send(session, Report { seq: self.seq + 1, full: false, facts }, lost);
        }
        self.now += HEARTBEAT;
        let mut out = Vec::new();
        session.write_due(&mut out, self.now);
        let asked = requests(&out).into_iter().filter(|asked| asked.execute == "agent-report");
        let asked = asked.count();
        assert!(asked <= 1);
        if asked == 1 {
            let full = Report { seq: self.seq + 1, full: true, facts: self.facts.clone() };
            self.send(session, full, false);
        }
    }

    fn send(&mut self, session: &mut Session, report: Report, lost: bool) {
        self.seq = report.seq;
        self.reported = self.facts.clone();
        if !lost {
            say(session, Event::Report(report), self.now);
        }
    }
}

proptest! {
    #[test]
    fn whatever_reports_are_lost_the_facts_come_right(
        steps in prop::collection::vec((0u8..4, prop::option::of(1u64..9), any::<bool>()), 0..40),
    ) {
        let mut session = session();
        let now = Instant::now();
        session.connect(&mut Vec::new());
        say(&mut session, Event::Hello(hello("a")), now);
        let nothing = json!({});
        let mut teller = Teller { now, seq: 0, facts: nothing.clone(), reported: nothing };
        for (disk, bytes, lost) in steps {
            teller.change(disk, bytes);
            teller.report(&mut session, lost);
        }
        // One more change that arrives shows whatever gap there is.
        teller.change(9, Some(teller.seq));
        teller.report(&mut session, false);
        let known = serde_json::to_value(session.state.guest().facts.disks.unwrap()).unwrap();
        let sizes = |disks: &Value| -> Vec<(String, Value)> {
            let disks = disks.as_object().unwrap().iter();
            disks.map(|(name, disk)| (name.clone(), disk["size_bytes"].clone())).collect()
        };
        prop_assert_eq!(sizes(&known), sizes(&teller.facts["disks"]));
    }

    #[test]
    fn whatever_is_said_what_is_owed_stays_small_and_well_formed(
        words in prop::collection::vec((0u8..7, 0u64..4), 0..60),
    ) {
        let mut session = session();
        let mut now = Instant::now();
        session.connect(&mut Vec::new());
        for (word, number) in words {
            let name = format!("session {number}");
            let event = match word {
                0 => Event::Hello(hello(&name)),
                1 => Event::Heartbeat(Heartbeat { seq: number, session: name, clock: clock() }),
                2 => Event::Report(Report { seq: number, full: false, facts: json!({}) }),
                3 => Event::Report(Report { seq: number, full: true, facts: Value::Null }),
                4 => Event::Lifecycle(Lifecycle {
                    stage: Stage::Resume,
                    uptime_ms: number,
                    detail: None,
                }),
                5 => {
                    session.renew();
                    continue;
                }
                _ => {
                    now += HEARTBEAT;
                    let mut out = Vec::new();
                    session.write_due(&mut out, now);
                    // A hello, a question and a heartbeat at most.
                    prop_assert!(requests(&out).len() <= 3);
                    prop_assert!(out.len() < 1024);
                    continue;
                }
            };
            say(&mut session, event, now);
        }
        prop_assert!(session.state.guest().boot.len() <= 1);
    }
}
