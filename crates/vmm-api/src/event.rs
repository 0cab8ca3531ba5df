//! What happens: `GET /events`, server-sent and resumable.

use guest_protocol::message::Lifecycle;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::guest::AgentState;
use crate::operation::Operation;
use crate::vm::State;

/// Something that happened. On the wire it is the `data:` of a server-sent
/// event whose `id:` is the [`EventId`] and whose `event:` is the kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// The VM that it happened to; absent for what concerns the stream itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Uuid>,
    /// When, by the host's clock.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventKind {
    /// A VM was created.
    Created {
        /// Its name.
        name: String,
    },
    /// A VM's specification was changed.
    Changed {
        /// Its name.
        name: String,
    },
    /// A VM was deleted.
    Deleted {
        /// Its name.
        name: String,
    },
    /// A VM changed its state.
    State {
        /// Before.
        from: State,
        /// After.
        to: State,
        /// Why, where that needs saying.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// An operation began, moved on or ended.
    Operation {
        /// As it is now.
        operation: Operation,
    },
    /// The guest's agent came, fell silent or went.
    Agent {
        /// As it is now.
        agent: AgentState,
    },
    /// The guest reached a stage of its life.
    Lifecycle {
        /// Which, and when.
        #[cfg_attr(feature = "openapi", schema(value_type = Object))]
        lifecycle: Lifecycle,
    },
    /// The guest told facts.
    Facts {
        /// Whether `facts` is everything or a merge patch (RFC 7386).
        full: bool,
        /// The facts or the patch.
        facts: Value,
    },
    /// Events that this subscriber did not get because it read too slowly, or
    /// came back too late: the gap lies right before the next event.
    Missed {
        /// How many; absent when that cannot be known, as after a restart of
        /// the daemon.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
}

impl EventKind {
    /// The words of all kinds.
    pub const WORDS: [&str; 9] = [
        "created",
        "changed",
        "deleted",
        "state",
        "operation",
        "agent",
        "lifecycle",
        "facts",
        "missed",
    ];

    /// The word that stands for it in `kind` and in the stream's `event:`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Changed { .. } => "changed",
            Self::Deleted { .. } => "deleted",
            Self::State { .. } => "state",
            Self::Operation { .. } => "operation",
            Self::Agent { .. } => "agent",
            Self::Lifecycle { .. } => "lifecycle",
            Self::Facts { .. } => "facts",
            Self::Missed { .. } => "missed",
        }
    }
}

/// Where an event stands in the stream: `<epoch>-<sequence>`. The epoch is
/// random for each run of the daemon, the sequence counts from 1 within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId {
    /// Which run of the daemon.
    pub epoch: String,
    /// Where in it.
    pub sequence: u64,
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

impl std::str::FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, sequence) = text.rsplit_once('-').ok_or(InvalidEventId)?;
        let sequence = sequence.parse().map_err(|_| InvalidEventId)?;
        Ok(Self { epoch: epoch.to_owned(), sequence })
    }
}

/// A text that is no event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event id looks like 1f0c9a2e-42")]
pub struct InvalidEventId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_all_that_are_read() {
        let unknown = r#"{"at": "2026-01-01T00:00:00Z", "kind": "?"}"#;
        let error = serde_json::from_str::<Event>(unknown).unwrap_err().to_string();
        let (_, known) = error.split_once("expected one of ").unwrap();
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        assert_eq!(known, EventKind::WORDS);
    }
}
