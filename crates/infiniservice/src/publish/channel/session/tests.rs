//! The gate, without any input or output: what a host says and what it gets.

use guest_protocol::message::{ErrorClass, GuestMessage, Stage};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::command::policy::{Policy, Profile};

/// A session with everything it needs, and a host that reads all it says.
struct Talk {
    session: Session,
    identity: Identity,
    commands: Commands,
    now: Instant,
    heard: Decoder,
}

impl Talk {
    fn new(profile: Profile) -> Self {
        let identity = Identity { agent_id: "a".into(), boot_id: "b".into() };
        let commands = Commands::new(Policy::new(profile, vec![], vec![]).unwrap());
        let now = Instant::now();
        let session = Session::begin(&identity, &commands, true, now);
        Self { session, identity, commands, now, heard: Decoder::default() }
    }

    /// A session that a host has confirmed and that said everything.
    fn confirmed() -> Self {
        let mut talk = Self::new(Profile::Managed);
        talk.hello("host", true);
        talk.listen();
        talk
    }

    fn say(&mut self, text: &str) -> Option<Effect> {
        self.session.feed(text.as_bytes());
        self.session.work(&self.identity, &self.commands, self.now)
    }

    fn hello(&mut self, session: &str, knows_us: bool) -> Option<Effect> {
        let mut arguments = json!({
            "protocols": [1], "session": session, "heartbeat_s": 5,
            "clock": {"seconds": 1, "microseconds": 0},
        });
        if knows_us {
            arguments["peer_session"] = self.session.id.clone().into();
        }
        self.say(&json!({"execute": "agent-hello", "arguments": arguments}).to_string())
    }

    fn speak(&mut self, facts: &Value, stages: &[Lifecycle]) -> Vec<GuestMessage> {
        self.session.facts_changed();
        self.session.speak(Some(facts), stages, self.now);
        self.listen()
    }

    fn listen(&mut self) -> Vec<GuestMessage> {
        let said = self.session.outbox().pending().to_vec();
        self.session.outbox().advance(said.len());
        self.heard.feed(&said);
        let mut messages = Vec::new();
        while let Some(frame) = self.heard.next_frame() {
            match frame {
                Frame::Object(object) => {
                    messages.push(codec::parse_guest_message(object).unwrap());
                }
                Frame::Sync => {}
                Frame::Discarded(..) => panic!("the agent said nonsense"),
            }
        }
        messages
    }

    fn ask(&mut self, text: &str) -> Vec<GuestMessage> {
        assert_eq!(self.say(text), None);
        self.listen()
    }
}

fn hellos(messages: &[GuestMessage]) -> usize {
    let is_hello = |it: &&GuestMessage| {
        matches!(it, GuestMessage::Event(TimedEvent { event: Event::Hello(_), .. }))
    };
    messages.iter().filter(is_hello).count()
}

fn reports(messages: &[GuestMessage]) -> Vec<Report> {
    let report = |it: &GuestMessage| match it {
        GuestMessage::Event(TimedEvent { event: Event::Report(report), .. }) => {
            Some(report.clone())
        }
        _ => None,
    };
    messages.iter().filter_map(report).collect()
}

fn error(message: &GuestMessage) -> (ErrorClass, &str, Option<&Value>) {
    match message {
        GuestMessage::Reply(Reply { outcome: Outcome::Error(error), id }) => {
            (error.class, &error.desc, id.as_ref())
        }
        other => panic!("{other:?} is no error"),
    }
}

#[test]
fn a_session_begins_with_a_reset_and_a_hello() {
    let mut talk = Talk::new(Profile::Baseline1);
    assert_eq!(talk.session.outbox().pending()[0], RESET);
    assert_eq!(hellos(&talk.listen()), 1);
}

#[test]
fn nothing_is_executed_that_was_not_said_to_this_session() {
    let mut talk = Talk::new(Profile::Managed);
    talk.listen();
    // What an earlier host left in the queue: its commands, and its
    // confirmation of an earlier session.
    let shutdown = r#"{"execute":"guest-shutdown","id":1}"#;
    assert_eq!(talk.say(shutdown), None);
    let stale = r#"{"execute":"agent-hello","arguments":{"protocols":[1],"session":"old",
        "peer_session":"earlier","clock":{"seconds":1,"microseconds":0},"heartbeat_s":5}}"#;
    assert_eq!(talk.say(stale), None);
    assert_eq!(talk.say(shutdown), None);
    assert_eq!(talk.say("{\"execute\":\"guest-ping\"}{\"x\":1}"), None);
    assert_eq!(talk.session.discarded.before_hello, 4);
    assert_eq!(hellos(&talk.listen()), 1);
    assert_eq!(talk.hello("host", true), Some(Effect::Collect));
    let id = Some(json!(2));
    let expected = Effect::TurnOff { mode: PowerMode::PowerDown, id };
    assert_eq!(talk.say(r#"{"execute":"guest-shutdown","id":2}"#), Some(expected));
}

#[test]
fn what_a_host_left_in_the_queue_is_not_said_to_the_next_session() {
    let mut talk = Talk::confirmed();
    let (earlier, commands) = (talk.session.id.clone(), talk.commands.allowed());
    assert!(commands.contains(&"guest-shutdown".to_owned()));
    talk.session.host_left();
    talk.session.host_returned(&talk.identity, &talk.commands, talk.now);
    // The confirmation of the earlier session, and a command behind it.
    let stale = json!({
        "protocols": [1], "session": "host", "peer_session": earlier, "heartbeat_s": 5,
        "clock": {"seconds": 1, "microseconds": 0},
    });
    assert_eq!(talk.say(&json!({"execute": "agent-hello", "arguments": stale}).to_string()), None);
    assert_eq!(talk.say(r#"{"execute":"guest-shutdown","id":1}"#), None);
    assert!(!talk.session.is_confirmed());
    // A new session counts from 1.
    assert_eq!(talk.hello("next", true), Some(Effect::Collect));
    talk.listen();
    assert_eq!(reports(&talk.speak(&json!({"cpu": {"online": 1}}), &[]))[0].seq, 1);
}

#[test]
fn another_host_has_to_confirm_again_and_is_told_everything_again() {
    let mut talk = Talk::confirmed();
    let stages = [Lifecycle { stage: Stage::KernelStarted, uptime_ms: 0, detail: None }];
    let facts = json!({"cpu": {"online": 1}});
    assert_eq!(talk.speak(&facts, &stages).len(), 2);
    assert_eq!(talk.speak(&facts, &stages).len(), 0);

    assert_eq!(talk.hello("another", false), None);
    assert!(!talk.session.is_confirmed());
    assert_eq!(hellos(&talk.listen()), 1);
    assert_eq!(talk.ask(r#"{"execute":"guest-ping"}"#).len(), 0);
    assert!(talk.speak(&facts, &stages).is_empty());

    assert_eq!(talk.hello("another", true), Some(Effect::Collect));
    talk.listen();
    let told = talk.speak(&facts, &stages);
    assert_eq!(told.len(), 2);
    assert_eq!(reports(&told)[0], Report { seq: 2, full: true, facts });
}

#[test]
fn confirming_twice_is_once() {
    let mut talk = Talk::confirmed();
    let facts = json!({"cpu": {"online": 1}});
    assert_eq!(reports(&talk.speak(&facts, &[])).len(), 1);
    assert_eq!(talk.hello("host", true), None);
    assert_eq!(hellos(&talk.listen()), 0);
    assert!(talk.speak(&facts, &[]).is_empty());
}

#[test]
fn only_what_changed_is_reported_and_the_newest_wins() {
    let mut talk = Talk::confirmed();
    talk.speak(&json!({"disks": {"vda": {"size_bytes": 1}}, "load": {"one_minute": 1}}), &[]);
    // The port is not writable: two reports are made while bytes wait.
    talk.session.outbox().buffer().extend(b"{}");
    talk.session.facts_changed();
    talk.session.speak(Some(&json!({"disks": {}, "load": {"one_minute": 2}})), &[], talk.now);
    assert_eq!(talk.session.outbox().pending(), b"{}");
    talk.session.outbox().clear();
    let told = talk.speak(&json!({"disks": {}, "load": {"one_minute": 3}}), &[]);
    let changed = json!({"disks": {"vda": null}, "load": {"one_minute": 3}});
    assert_eq!(reports(&told), [Report { seq: 2, full: false, facts: changed }]);
}

#[test]
fn a_host_that_missed_something_gets_everything() {
    let mut talk = Talk::confirmed();
    let facts = json!({"cpu": {"online": 1}});
    talk.speak(&facts, &[]);
    let asked = talk.say(r#"{"execute":"agent-report","id":"r"}"#);
    assert_eq!(asked, Some(Effect::Collect));
    talk.listen();
    assert!(reports(&talk.speak(&facts, &[]))[0].full);
}

#[test]
fn a_long_report_is_cut_and_stays_whole() {
    let mut talk = Talk::confirmed();
    let disk = || json!({"size_bytes": "x".repeat(1000)});
    let disks: Map<_, _> = (0..2000).map(|n| (format!("vd{n}"), disk())).collect();
    let facts = json!({"disks": disks, "os": {"id": "debian"}});
    let told = reports(&talk.speak(&facts, &[]));
    assert!(told.len() > 1 && told[0].full && told[1..].iter().all(|it| !it.full));
    let mut merged = json!({});
    for (position, report) in told.iter().enumerate() {
        assert_eq!(report.seq, position as u64 + 1);
        merge_patch::apply(&mut merged, &report.facts);
    }
    assert_eq!(merged, facts);
}

#[test]
fn long_and_deep_requests_are_answered_and_the_session_goes_on() {
    let mut talk = Talk::confirmed();
    let long = format!("{{\"execute\":\"{}\"}}\n", "x".repeat(MAX_OBJECT_BYTES));
    let answers = talk.ask(&long);
    assert!(error(&answers[0]).1.contains("1 MiB"));
    let deep = format!("{{\"a\":{}\n", "[".repeat(10_000));
    let answers = talk.ask(&deep);
    assert!(error(&answers[0]).1.contains("32"), "{answers:?}");
    assert_eq!(talk.ask("\n{\"execute\":\"guest-ping\",\"id\":1}").len(), 1);
}

#[test]
fn half_understood_requests_are_refused_with_their_id() {
    let mut talk = Talk::confirmed();
    let answers = talk.ask(r#"{"execute":"guest-ping","sudo":true,"id":[7]}"#);
    assert_eq!(error(&answers[0]).2, Some(&json!([7])));
    let answers = talk.ask(r#"{"execute":"guest-ping","sudo":true,"id":null}"#);
    assert_eq!(error(&answers[0]).2, Some(&Value::Null));
    let answers = talk.ask(r#"{"execute":"guest-ping","sudo":true}"#);
    assert_eq!(error(&answers[0]).2, None);
    let answers = talk.ask(r#"{"execute":"guest-sync","id":1}"#);
    assert_eq!(error(&answers[0]).0, ErrorClass::GenericError);
}

#[test]
fn the_delimited_sync_is_preceded_by_the_reset() {
    let mut talk = Talk::confirmed();
    talk.say("\u{0}\n{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":5}}");
    assert_eq!(talk.session.outbox().pending(), b"\xff{\"return\":5}\n");
}

#[test]
fn heartbeats_come_when_there_is_nothing_else_to_say() {
    let mut talk = Talk::confirmed();
    let due = talk.session.deadline().unwrap();
    assert_eq!(due - talk.now, Duration::from_secs(5));
    talk.session.speak(None, &[], due);
    let told = talk.listen();
    let [GuestMessage::Event(TimedEvent { event: Event::Heartbeat(heartbeat), .. })] = &told[..]
    else {
        panic!("{told:?} is no heartbeat");
    };
    assert_eq!((heartbeat.seq, &heartbeat.session), (1, &talk.session.id));
    assert!(talk.session.deadline().unwrap() > due);
}

#[test]
fn a_heartbeat_of_a_stranger_is_an_error() {
    let mut talk = Talk::confirmed();
    for (session, is_known) in [("host", true), ("stranger", false)] {
        let answers = talk.ask(&format!(
            r#"{{"execute":"agent-heartbeat","arguments":{{"seq":1,"session":"{session}",
                "clock":{{"seconds":1,"microseconds":0}}}}}}"#
        ));
        let GuestMessage::Reply(reply) = &answers[0] else { panic!("{answers:?}") };
        assert_eq!(matches!(reply.outcome, Outcome::Return(_)), is_known);
    }
}

#[test]
fn a_host_without_our_protocol_is_told_so() {
    let mut talk = Talk::new(Profile::Baseline1);
    talk.listen();
    let answers = talk.ask(
        r#"{"execute":"agent-hello","arguments":{"protocols":[99],"session":"s",
        "clock":{"seconds":1,"microseconds":0},"heartbeat_s":5}}"#,
    );
    assert!(error(&answers[0]).1.contains("protocol"));
    assert!(!talk.session.is_confirmed());
}

#[test]
fn a_host_that_does_not_read_is_not_read_either() {
    let mut talk = Talk::confirmed();
    let pings = "{\"execute\":\"guest-info\"}".repeat(100);
    for _ in 0..1000 {
        if !talk.session.may_read() {
            break;
        }
        assert_eq!(talk.say(&pings), None);
    }
    assert!(!talk.session.may_read());
    let waiting = talk.session.outbox().pending().len();
    assert!(waiting < 70 * 1024, "{waiting}");
    // It reads again, and gets every answer.
    let mut answers = 0;
    while !talk.session.is_idle {
        answers += talk.listen().len();
        talk.say("");
    }
    assert_eq!((answers + talk.listen().len()) % 100, 0);
}

#[test]
fn a_flood_has_to_wait_and_loses_nothing() {
    let mut talk = Talk::confirmed();
    let mut answers = 0;
    let pings = "{\"execute\":\"guest-ping\"}".repeat(1000);
    for _ in 0..60 {
        talk.say(&pings);
        while talk.session.has_work() {
            talk.say("");
            answers += talk.listen().len();
        }
    }
    assert!(!talk.session.is_idle && !talk.session.may_read());
    while !talk.session.is_idle {
        talk.now = talk.session.paused_until.unwrap_or(talk.now);
        answers += talk.listen().len();
        talk.say("");
    }
    assert_eq!(answers + talk.listen().len(), 60_000);
}

proptest! {
    #[test]
    fn no_bytes_of_a_host_break_a_session(noise: Vec<Vec<u8>>, confirmed: bool) {
        let mut talk = if confirmed { Talk::confirmed() } else { Talk::new(Profile::Managed) };
        for piece in noise {
            talk.session.feed(&piece);
            prop_assert_eq!(talk.session.work(&talk.identity, &talk.commands, talk.now), None);
        }
        talk.listen();
        talk.session.feed(b"\xff\n");
        talk.hello("rescue", true);
        prop_assert!(talk.session.is_confirmed());
    }
}
