//! One session with a host, without any input or output: bytes are fed in,
//! bytes are taken out. It is the gate: nothing is executed that was not said
//! to this very session.

use std::time::{Duration, Instant};

use guest_protocol::codec::{self, Decoder, Discard, Frame, RESET};
use guest_protocol::limits::{DEFAULT_HEARTBEAT_S, MAX_OBJECT_BYTES, PROTOCOLS, negotiate};
use guest_protocol::merge_patch;
use guest_protocol::message::{
    AgentHello, ErrorBody, Event, Heartbeat, Hello, Lifecycle, Outcome, Reply, Report, Request,
    TimedEvent, Timestamp,
};
use serde_json::{Map, Value};

use super::budget::{Budget, PAUSE};
use super::outbox::Outbox;
use super::report;
use crate::command::{self, Action, Answer, Commands, PowerMode};
use crate::identity::Identity;
use crate::sys::{random, time};

/// The heartbeats that a host may ask for, in seconds: faster would be a load,
/// slower would be none.
const HEARTBEAT_S: std::ops::RangeInclusive<u32> = 1..=3600;

/// What stands around the facts in a message, in bytes, and then some.
const REPORT_ENVELOPE_BYTES: usize = 256;

/// What the agent as a whole has to do for a session.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Collect: the host is about to get everything.
    Collect,
    /// Turn the machine off, or answer the request of that id that it failed.
    TurnOff {
        /// How.
        mode: PowerMode,
        /// The request's.
        id: Option<Value>,
    },
}

/// The host, as far as it is known.
#[derive(Debug)]
enum Host {
    /// It has said nothing to this session.
    Unknown,
    /// It said hello; it may not know this session.
    Greeted { session: String },
    /// It echoed this session, so what it says is meant for now.
    Confirmed { session: String },
}

impl Host {
    fn session(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Greeted { session } | Self::Confirmed { session } => Some(session),
        }
    }
}

/// What was thrown away, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Discarded {
    /// Requests that were not said to this session.
    pub(super) before_hello: u64,
    /// Bytes of no message.
    pub(super) garbage_bytes: u64,
}

/// A session with whoever is at the other end.
#[derive(Debug)]
pub(super) struct Session {
    id: String,
    host: Host,
    decoder: Decoder,
    outbox: Outbox,
    budget: Budget,
    paused_until: Option<Instant>,
    /// Whether everything that was fed has been looked at.
    is_idle: bool,
    heartbeat: Duration,
    heartbeat_seq: u64,
    last_event: Instant,
    report_seq: u64,
    is_report_due: bool,
    /// What the host was told.
    told: Option<Value>,
    stages_told: usize,
    discarded: Discarded,
}

enum Heard {
    Request(Request),
    Malformed { reason: String, id: Option<Value> },
    Discarded(Discard, usize),
}

impl Session {
    /// Begins a session. `after_others` says that the stream may hold bytes of
    /// an earlier one, which the host must not read together with ours.
    pub(super) fn begin(
        identity: &Identity,
        commands: &Commands,
        after_others: bool,
        now: Instant,
    ) -> Self {
        let mut session = Self {
            id: random::hex_128(),
            host: Host::Unknown,
            decoder: Decoder::default(),
            outbox: Outbox::default(),
            budget: Budget::new(now),
            paused_until: None,
            is_idle: true,
            heartbeat: Duration::from_secs(u64::from(DEFAULT_HEARTBEAT_S)),
            heartbeat_seq: 0,
            last_event: now,
            report_seq: 0,
            is_report_due: false,
            told: None,
            stages_told: 0,
            discarded: Discarded::default(),
        };
        session.greet(identity, commands, after_others, now);
        session
    }

    /// The host's end was closed: whoever comes next has to say hello, and what
    /// waited was not for it. The session is a new one, because the port may
    /// still hold what that host said, its confirmation of the old one included.
    pub(super) fn host_left(&mut self) {
        self.id = random::hex_128();
        self.heartbeat_seq = 0;
        self.report_seq = 0;
        self.host = Host::Unknown;
        self.decoder = Decoder::default();
        self.outbox.clear();
        self.is_idle = true;
        self.forget_what_was_told();
    }

    /// A host is there again.
    pub(super) fn host_returned(&mut self, identity: &Identity, commands: &Commands, now: Instant) {
        self.greet(identity, commands, true, now);
    }

    /// Takes what was read.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
        self.is_idle = false;
    }

    /// Whether more may be read: what was read is done, and there is room for
    /// the answers.
    pub(super) fn may_read(&self) -> bool {
        self.is_idle && !self.outbox.is_full()
    }

    /// Whether [`Self::work`] would do something now.
    pub(super) fn has_work(&self) -> bool {
        !self.is_idle && !self.outbox.is_full() && self.paused_until.is_none()
    }

    /// Whether the host has confirmed this session.
    pub(super) fn is_confirmed(&self) -> bool {
        matches!(self.host, Host::Confirmed { .. })
    }

    /// What is to be written.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// There are newer facts than the host was told.
    pub(super) fn facts_changed(&mut self) {
        self.is_report_due = true;
    }

    /// When there is something to do although nothing comes in.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let speaks = self.is_confirmed() && self.outbox.is_empty();
        speaks.then(|| self.last_event + self.heartbeat)
    }

    /// Until when the host is not heard, because it sent more than its share.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Looks at what was fed, until something has to be done about it.
    pub(super) fn work(
        &mut self,
        identity: &Identity,
        commands: &Commands,
        now: Instant,
    ) -> Option<Effect> {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        while self.has_work() {
            if !self.budget.take(now) {
                tracing::debug!("The host sends faster than it is heard; it has to wait.");
                self.paused_until = Some(now + PAUSE);
                return None;
            }
            let heard = match self.decoder.next_frame() {
                None => {
                    self.is_idle = true;
                    return None;
                }
                Some(Frame::Sync) => continue,
                Some(Frame::Discarded(reason, bytes)) => Heard::Discarded(reason, bytes),
                Some(Frame::Object(object)) => match codec::parse_request(object) {
                    Ok(request) => Heard::Request(request),
                    Err(error) => Heard::Malformed { reason: error.to_string(), id: id_of(object) },
                },
            };
            if let Some(effect) = self.hear(heard, identity, commands, now) {
                return Some(effect);
            }
        }
        None
    }

    /// Says what is due, newest and most urgent first. Only while nothing else
    /// waits: a report that cannot be written is not made.
    pub(super) fn speak(&mut self, newest: Option<&Value>, stages: &[Lifecycle], now: Instant) {
        if !self.is_confirmed() || !self.outbox.is_empty() {
            return;
        }
        for stage in &stages[self.stages_told.min(stages.len())..] {
            self.say(Event::Lifecycle(stage.clone()), now);
        }
        self.stages_told = stages.len();
        if self.is_report_due
            && let Some(newest) = newest
        {
            self.report(newest, now);
            self.is_report_due = false;
        }
        if now.saturating_duration_since(self.last_event) >= self.heartbeat {
            self.heartbeat_seq += 1;
            let heartbeat =
                Heartbeat { seq: self.heartbeat_seq, session: self.id.clone(), clock: clock() };
            self.say(Event::Heartbeat(heartbeat), now);
        }
    }

    /// Whether the host was told all `stages`, and everything is written.
    pub(super) fn has_told(&self, stages: &[Lifecycle]) -> bool {
        self.outbox.is_empty() && self.stages_told >= stages.len()
    }

    /// Answers a request that failed after all.
    pub(super) fn fail(&mut self, id: Option<Value>, error: ErrorBody) {
        self.reply(Outcome::Error(error), id);
    }

    fn hear(
        &mut self,
        heard: Heard,
        identity: &Identity,
        commands: &Commands,
        now: Instant,
    ) -> Option<Effect> {
        let confirmed = self.is_confirmed();
        match heard {
            Heard::Request(request) if confirmed || request.execute == "agent-hello" => {
                return self.execute(request, identity, commands, now);
            }
            Heard::Request(request) => {
                self.discarded.before_hello += 1;
                tracing::debug!(
                    command = %request.execute.escape_debug(),
                    "A request that was not said to this session is not executed."
                );
            }
            Heard::Malformed { reason, id } if confirmed => {
                self.reply(Outcome::Error(command::failed(reason)), id);
            }
            Heard::Malformed { .. } => self.discarded.before_hello += 1,
            Heard::Discarded(reason, bytes) => {
                self.discarded.garbage_bytes += bytes as u64;
                tracing::debug!(?reason, bytes, "Bytes that are no message were thrown away.");
                if confirmed && let Some(error) = refusal(reason) {
                    self.reply(Outcome::Error(error), None);
                }
            }
        }
        None
    }

    fn execute(
        &mut self,
        mut request: Request,
        identity: &Identity,
        commands: &Commands,
        now: Instant,
    ) -> Option<Effect> {
        let id = request.id.take();
        let nothing = || Outcome::Return(Value::Object(Map::new()));
        let (outcome, effect) = match commands.run(request) {
            Err(error) => (Outcome::Error(error), None),
            Ok(Answer::Return(value)) => (Outcome::Return(value), None),
            Ok(Answer::Delimited(value)) => {
                self.outbox.buffer().push(RESET);
                (Outcome::Return(value), None)
            }
            Ok(Answer::Do(Action::TurnOff(mode))) => return Some(Effect::TurnOff { mode, id }),
            Ok(Answer::Do(Action::ReportEverything)) => {
                self.told = None;
                self.is_report_due = true;
                (nothing(), Some(Effect::Collect))
            }
            Ok(Answer::Do(Action::Heartbeat(heartbeat))) => (self.hear_heartbeat(&heartbeat), None),
            Ok(Answer::Do(Action::Hello(hello))) => {
                match self.hear_hello(hello, identity, commands, now) {
                    Ok(effect) => (nothing(), effect),
                    Err(error) => (Outcome::Error(error), None),
                }
            }
        };
        self.reply(outcome, id);
        effect
    }

    fn hear_heartbeat(&self, heartbeat: &Heartbeat) -> Outcome {
        if self.host.session() == Some(&heartbeat.session) {
            return Outcome::Return(Value::Object(Map::new()));
        }
        let desc = "The heartbeat is of a session that has not said agent-hello";
        Outcome::Error(command::failed(desc))
    }

    fn hear_hello(
        &mut self,
        hello: AgentHello,
        identity: &Identity,
        commands: &Commands,
        now: Instant,
    ) -> Result<Option<Effect>, ErrorBody> {
        if negotiate(&hello.protocols).is_none() {
            return Err(command::failed(format!(
                "The host and this agent have no protocol in common; the agent speaks {PROTOCOLS:?}"
            )));
        }
        let is_new = self.host.session() != Some(&hello.session);
        if is_new {
            self.forget_what_was_told();
            self.host = Host::Greeted { session: hello.session.clone() };
        }
        if hello.peer_session.as_deref() != Some(&self.id) {
            // It does not know this session, or lost our hello.
            self.greet(identity, commands, false, now);
            return Ok(None);
        }
        if self.is_confirmed() {
            return Ok(None);
        }
        let heartbeat_s = hello.heartbeat_s.clamp(*HEARTBEAT_S.start(), *HEARTBEAT_S.end());
        self.heartbeat = Duration::from_secs(u64::from(heartbeat_s));
        self.host = Host::Confirmed { session: hello.session };
        self.is_report_due = true;
        tracing::info!(
            heartbeat_s,
            requests_discarded = self.discarded.before_hello,
            bytes_discarded = self.discarded.garbage_bytes,
            "A host has confirmed this session."
        );
        Ok(Some(Effect::Collect))
    }

    fn forget_what_was_told(&mut self) {
        self.told = None;
        self.stages_told = 0;
    }

    fn greet(
        &mut self,
        identity: &Identity,
        commands: &Commands,
        after_others: bool,
        now: Instant,
    ) {
        if after_others {
            self.outbox.buffer().push(RESET);
        }
        let hello = Hello {
            protocols: PROTOCOLS.to_vec(),
            session: self.id.clone(),
            agent_id: identity.agent_id.clone(),
            agent: concat!("infiniservice/", env!("CARGO_PKG_VERSION")).into(),
            boot_id: identity.boot_id.clone(),
            capabilities: commands.allowed(),
            clock: clock(),
        };
        self.say(Event::Hello(hello), now);
    }

    fn report(&mut self, newest: &Value, now: Instant) {
        let mut full = self.told.is_none();
        let changed = match &self.told {
            None => Some(newest.clone()),
            Some(told) => merge_patch::diff(told, newest),
        };
        let Some(changed) = changed else { return };
        let limit = MAX_OBJECT_BYTES - REPORT_ENVELOPE_BYTES;
        let told = self.told.get_or_insert_with(|| Value::Object(Map::new()));
        merge_patch::apply(told, &changed);
        for facts in report::split(changed, limit) {
            self.report_seq += 1;
            self.say(Event::Report(Report { seq: self.report_seq, full, facts }), now);
            full = false;
        }
    }

    fn reply(&mut self, outcome: Outcome, id: Option<Value>) {
        codec::encode_reply(&Reply { outcome, id }, self.outbox.buffer());
    }

    fn say(&mut self, event: Event, now: Instant) {
        self.last_event = now;
        codec::encode_event(&TimedEvent { event, timestamp: clock() }, self.outbox.buffer());
    }
}

/// Why bytes that were no request are answered; garbage is not, because it may
/// be the rest of something that was meant for somebody else.
fn refusal(reason: Discard) -> Option<ErrorBody> {
    match reason {
        Discard::Garbage => None,
        Discard::TooLong => Some(command::failed("The request is longer than 1 MiB")),
        Discard::TooDeep => Some(command::failed("The request is nested deeper than 32")),
        Discard::TooWide => Some(command::failed("The request holds too many values")),
    }
}

/// The id of an object that is no request, so that its sender learns of it.
fn id_of(object: &[u8]) -> Option<Value> {
    #[derive(serde::Deserialize)]
    struct Any {
        id: Value,
    }
    Some(serde_json::from_slice::<Any>(object).ok()?.id)
}

fn clock() -> Timestamp {
    let now = time::wall_clock();
    Timestamp { seconds: now.as_secs(), microseconds: now.subsec_micros() }
}

#[cfg(test)]
mod tests;
