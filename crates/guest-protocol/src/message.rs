//! The messages of protocol version 1, in the shapes they have on the wire.
//!
//! Host to guest: [`Request`]. Guest to host: [`GuestMessage`], which is an
//! [`Event`] or the [`Reply`] to a request.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A moment on the sender's wall clock, as QMP writes it in its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since the Unix epoch.
    pub seconds: u64,
    /// Microseconds within the second, below 1,000,000.
    pub microseconds: u32,
}

/// A command of the host, not yet understood: the dispatcher looks the name
/// up and only then reads the arguments, so that an unknown name and bad
/// arguments are different errors, as in QMP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The command's name, such as `guest-ping`.
    pub execute: String,
    /// The command's arguments; absent means an empty object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// Echoed in the reply. May be any JSON value, as in QMP, null too.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub id: Option<Value>,
}

/// The arguments of `agent-hello`, which the host sends on every connect and
/// again to confirm a guest's `HELLO`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The versions that the host speaks, best first.
    pub protocols: Vec<u32>,
    /// Random for each connect of the host.
    pub session: String,
    /// The guest's session, echoed: present in the confirmation only. Until a
    /// host has echoed its session the guest executes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_session: Option<String>,
    /// The host's wall clock.
    pub clock: Timestamp,
    /// How often the guest should send `HEARTBEAT`, in seconds.
    pub heartbeat_s: u32,
}

/// The arguments of `agent-heartbeat` and the data of the event `HEARTBEAT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts from 1 within a session.
    pub seq: u64,
    /// The sender's session.
    pub session: String,
    /// The sender's wall clock.
    pub clock: Timestamp,
}

/// The data of the event `HELLO`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions that the guest speaks, best first.
    pub protocols: Vec<u32>,
    /// Random for each time the guest opens the port.
    pub session: String,
    /// Random, made when the agent was installed.
    pub agent_id: String,
    /// The agent's name and version, such as `infiniservice/0.1.0`.
    pub agent: String,
    /// The guest kernel's random identifier of this boot.
    pub boot_id: String,
    /// The commands that the guest's policy allows on this port, sorted.
    pub capabilities: Vec<String>,
    /// The guest's wall clock.
    pub clock: Timestamp,
}

/// The data of the event `REPORT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Counts from 1 within a session; a gap makes the host ask
    /// `agent-report`.
    pub seq: u64,
    /// Whether `facts` is everything, or a merge patch (RFC 7386) upon what
    /// was reported before.
    pub full: bool,
    /// Shaped as [`crate::facts::Facts`]; kept as a value here because a merge
    /// patch says "removed" with null, which the typed facts never hold.
    pub facts: Value,
}

/// How far a guest has come in its life. Ordered as a boot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the contract's own words and say what they mean")]
pub enum Stage {
    KernelStarted,
    AgentStarted,
    NetworkOnline,
    AddressAcquired,
    InternetReachable,
    LoginReady,
    BootComplete,
    ShutdownStarted,
    Suspend,
    Resume,
}

/// The data of the event `LIFECYCLE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// The stage that was reached.
    pub stage: Stage,
    /// Milliseconds since the guest's kernel started, when it was reached.
    pub uptime_ms: u64,
    /// What more there is to say, such as the address that was acquired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

/// What a guest says unasked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "each variant is documented at the type that it carries")]
pub enum Event {
    Hello(Hello),
    Heartbeat(Heartbeat),
    Report(Report),
    Lifecycle(Lifecycle),
}

/// An event with the guest's clock, as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimedEvent {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// When, by the guest's clock.
    pub timestamp: Timestamp,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reply {
    /// The result or the error.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The command's result; `{}` where there is none to tell.
    Return(Value),
    /// Why there is no result.
    Error(ErrorBody),
}

/// An error as QMP and QGA write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What a program may branch on.
    pub class: ErrorClass,
    /// What a person reads.
    pub desc: String,
}

/// The error classes of QMP that clients branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The command is unknown, or the guest's policy does not allow it.
    CommandNotFound,
    /// Everything else.
    GenericError,
}

/// What a guest may send.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestMessage {
    /// Something happened.
    Event(TimedEvent),
    /// A command was answered.
    Reply(Reply),
}

/// A member that is there, whatever it holds: null is not absence.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
