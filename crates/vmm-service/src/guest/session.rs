//! The host's side of the conversation with one guest: who is who, what is
//! outstanding, what is due. No I/O: bytes of objects in, bytes of requests
//! out, so that the channel decides alone how and how fast they travel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use guest_protocol::codec::{self, RESET};
use guest_protocol::limits::{PROTOCOLS, negotiate};
use guest_protocol::message::{
    AgentHello, Event, GuestMessage, Heartbeat, Hello, Outcome, Reply, Report, Request, TimedEvent,
    Timestamp,
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::budget::{Budget, Cost};
use super::state::{GuestState, is_sane};

/// How many commands may wait for one guest's replies. Operators send them by
/// hand; more are waiting because the guest does not answer.
pub(super) const MAX_OUTSTANDING: usize = 64;

/// A command on its way to a guest.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) name: String,
    pub(super) arguments: Value,
    /// Where the reply goes. Dropped when there will be none.
    pub(super) reply: oneshot::Sender<Outcome>,
    /// Told when the last byte is written.
    pub(super) written: oneshot::Sender<()>,
}

/// One guest's conversation, over all connections of one attachment.
#[derive(Debug)]
pub(super) struct Session {
    state: Arc<GuestState>,
    heartbeat: Duration,
    /// The host's session; a new one with each connection.
    own: String,
    /// The guest's session, once it said hello.
    peer: Option<String>,
    hello_due: bool,
    report_wanted: bool,
    /// Before this no report is asked for again, and no stranger is greeted.
    ask_again: Instant,
    next_heartbeat: Instant,
    heartbeats: u64,
    last_report: u64,
    /// Whether patches have something to be merged into.
    synced: bool,
    next_id: u64,
    outstanding: HashMap<u64, oneshot::Sender<Outcome>>,
    unwritten: Vec<oneshot::Sender<()>>,
}

impl Session {
    pub(super) fn new(state: Arc<GuestState>, heartbeat: Duration) -> Self {
        let now = Instant::now();
        // A reply to an earlier run of the daemon must not meet a command of
        // this one: ids start anywhere.
        let (first, ..) = Uuid::new_v4().as_fields();
        Self {
            state,
            heartbeat,
            own: new_session(),
            peer: None,
            hello_due: false,
            report_wanted: false,
            ask_again: now,
            next_heartbeat: now,
            heartbeats: 0,
            last_report: 0,
            synced: false,
            next_id: u64::from(first),
            outstanding: HashMap::new(),
            unwritten: Vec::new(),
        }
    }

    /// A connection begins: says hello, unasked and whether or not the guest's
    /// port is open, since it is the first thing that an agent may read.
    pub(super) fn connect(&mut self, out: &mut Vec<u8>) {
        self.renew();
        // Whatever a former host was cut off in must not swallow the hello.
        out.push(RESET);
        self.write_hello(out);
        self.hello_due = false;
    }

    /// Forgets the guest's session and all that is outstanding; the next hello
    /// makes the guest say its own again.
    pub(super) fn renew(&mut self) {
        self.state.unconfirmed();
        self.own = new_session();
        self.peer = None;
        self.hello_due = true;
        self.report_wanted = false;
        self.synced = false;
        self.outstanding.clear();
        self.unwritten.clear();
    }

    /// Whether the guest obeys at the moment.
    pub(super) fn confirmed(&self) -> bool {
        self.peer.is_some()
    }

    /// Takes a whole object from the guest, and has it pay for what that
    /// causes.
    pub(super) fn receive(&mut self, object: &[u8], now: Instant, budget: &mut Budget) {
        let message = match codec::parse_guest_message(object) {
            Ok(message) => message,
            Err(error) => {
                self.malformed(&error.to_string());
                return;
            }
        };
        match message {
            GuestMessage::Reply(reply) => self.reply(reply),
            GuestMessage::Event(TimedEvent { event, timestamp }) => {
                self.state.clock(timestamp);
                match event {
                    Event::Hello(hello) => {
                        budget.spend(Cost::Hellos, 1);
                        self.hello(hello, now);
                    }
                    Event::Heartbeat(heartbeat) => self.heartbeat(&heartbeat, now),
                    Event::Report(report) => self.report(report, budget),
                    Event::Lifecycle(lifecycle) => {
                        if self.state.lifecycle(lifecycle) {
                            budget.spend(Cost::Events, 1);
                            budget.spend(Cost::EventBytes, object.len());
                        }
                    }
                }
            }
        }
    }

    /// Writes what is due, but for commands.
    pub(super) fn write_due(&mut self, out: &mut Vec<u8>, now: Instant) {
        if std::mem::take(&mut self.hello_due) {
            self.write_hello(out);
        }
        if self.peer.is_none() {
            return;
        }
        if self.report_wanted && now >= self.ask_again {
            self.report_wanted = false;
            self.ask_again = now + self.heartbeat;
            write(out, "agent-report", None, None);
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.heartbeat;
            self.heartbeats += 1;
            let heartbeat =
                Heartbeat { seq: self.heartbeats, session: self.own.clone(), clock: clock() };
            write(out, "agent-heartbeat", Some(to_value(&heartbeat)), None);
        }
    }

    /// When [`Session::write_due`] may have something to write.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.peer.as_ref()?;
        let ask = self.report_wanted.then_some(self.ask_again);
        Some(ask.map_or(self.next_heartbeat, |ask| ask.min(self.next_heartbeat)))
    }

    /// Writes a command.
    pub(super) fn command(&mut self, order: Order, out: &mut Vec<u8>) {
        // Nobody waits any more for what timed out.
        self.outstanding.retain(|_, reply| !reply.is_closed());
        if order.reply.is_closed() || self.outstanding.len() >= MAX_OUTSTANDING {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        write(out, &order.name, Some(order.arguments), Some(id.into()));
        self.outstanding.insert(id, order.reply);
        self.unwritten.push(order.written);
    }

    /// Everything was written.
    pub(super) fn flushed(&mut self) {
        for written in self.unwritten.drain(..) {
            // Whoever asked may have given up.
            let _ = written.send(());
        }
    }

    fn hello(&mut self, hello: Hello, now: Instant) {
        self.state.introduced();
        if !is_sane(&hello) {
            self.malformed("a hello whose texts are too long");
            return;
        }
        if negotiate(&hello.protocols).is_none() {
            if let Some(left_out) = self.state.log_line() {
                tracing::warn!(
                    vm = %self.state.vm(),
                    agent = %hello.agent.escape_debug(),
                    "Agent and daemon share no version of the channel; update the older of the \
                     two.{left_out}",
                );
            }
            self.state.malformed();
            return;
        }
        if self.peer.as_ref() != Some(&hello.session) {
            self.outstanding.clear();
            self.unwritten.clear();
            self.heartbeats = 0;
            self.last_report = 0;
            self.next_heartbeat = now + self.heartbeat;
        }
        // Everything follows a hello.
        self.synced = false;
        self.peer = Some(hello.session.clone());
        self.hello_due = true;
        self.state.hello(hello);
    }

    fn heartbeat(&mut self, heartbeat: &Heartbeat, now: Instant) {
        if self.peer.as_ref() == Some(&heartbeat.session) {
            self.state.heard();
            return;
        }
        // It speaks from a session that is not known here, as when a reset was
        // told late: a new session of ours makes it say hello again.
        if now >= self.ask_again {
            self.ask_again = now + self.heartbeat;
            self.renew();
        }
    }

    fn malformed(&self, why: &str) {
        self.state.malformed();
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(left_out) = self.state.log_line()
        {
            // It may cite the guest.
            let (vm, why) = (self.state.vm(), why.escape_debug());
            tracing::debug!(%vm, %why, "A guest sent what is no message.{left_out}");
        }
    }

    fn report(&mut self, report: Report, budget: &mut Budget) {
        let follows = report.seq.checked_sub(1) == Some(self.last_report);
        self.last_report = report.seq;
        let taken = if report.full || (self.synced && follows) {
            let told = self.state.report(report);
            budget.spend(Cost::Values, told.weight.values);
            if told.taken {
                budget.spend(Cost::Events, 1);
                budget.spend(Cost::EventBytes, told.weight.size.bytes);
            }
            told.taken
        } else {
            self.state.out_of_sequence();
            false
        };
        self.synced = taken;
        self.report_wanted = !taken;
    }

    fn reply(&mut self, reply: Reply) {
        self.state.heard();
        // Replies to what nobody waits for are no fault of the guest: hellos
        // and heartbeats are answered too, and commands time out.
        let id = reply.id.as_ref().and_then(Value::as_u64);
        if let Some(waiting) = id.and_then(|id| self.outstanding.remove(&id)) {
            let _ = waiting.send(reply.outcome);
        }
    }

    fn write_hello(&self, out: &mut Vec<u8>) {
        let hello = AgentHello {
            protocols: PROTOCOLS.to_vec(),
            session: self.own.clone(),
            peer_session: self.peer.clone(),
            clock: clock(),
            // Rounded up: zero would ask for heartbeats without a pause.
            heartbeat_s: u32::try_from(self.heartbeat.as_secs()).unwrap_or(u32::MAX).max(1),
        };
        write(out, "agent-hello", Some(to_value(&hello)), None);
    }
}

fn write(out: &mut Vec<u8>, name: &str, arguments: Option<Value>, id: Option<Value>) {
    codec::encode_request(&Request { execute: name.to_owned(), arguments, id }, out);
}

fn to_value(arguments: &impl Serialize) -> Value {
    serde_json::to_value(arguments).expect("the contract's types have string keys only")
}

fn new_session() -> String {
    Uuid::new_v4().simple().to_string()
}

fn clock() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: now.as_secs(), microseconds: now.subsec_micros() }
}

#[cfg(test)]
mod tests;
