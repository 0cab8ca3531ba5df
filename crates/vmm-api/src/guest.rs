//! What is known of the inside of a VM.

use guest_protocol::facts::Facts;
use guest_protocol::message::{Lifecycle, Stage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How far the guest is, in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestSummary {
    /// Whether the agent is there.
    pub agent: AgentState,
    /// Seconds since the agent's last word; absent when it never spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<f64>,
    /// The last stage that the guest reached in this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub stage: Option<Stage>,
}

/// Whether the agent is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It has not said hello in this run of the VM.
    #[default]
    Absent,
    /// It said hello and speaks.
    Connected,
    /// It said hello, and has been silent for three heartbeats.
    Silent,
}

impl AgentState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Absent, Self::Connected, Self::Silent];

    /// The word that stands for it on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Connected => "connected",
            Self::Silent => "silent",
        }
    }
}

/// Everything that is known of the inside of a VM: `GET /vms/{id}/guest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Guest {
    /// How far the guest is, in short.
    #[serde(flatten)]
    pub summary: GuestSummary,
    /// The agent's name and version, from its hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The agent's random identity, from its hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The commands that the guest's policy allows.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The guest's clock less the host's, in seconds, when last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_s: Option<f64>,
    /// When facts last came, by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts_at: Option<Timestamp>,
    /// What the guest tells about itself. It is the guest's word, not the
    /// host's knowledge: escape it before it is shown.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub facts: Facts,
    /// The stages of this boot, in the order in which they were heard.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub boot: Vec<Lifecycle>,
    /// What was thrown away of what came through the channel.
    pub dropped: ChannelDrops,
    /// What came through the channel, and what was held back of it.
    #[serde(default)]
    pub channel: ChannelCounters,
}

/// What was thrown away of what came through a VM's channel since the daemon
/// or the VM started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ChannelDrops {
    /// Bytes that belonged to no object.
    pub garbage_bytes: u64,
    /// Objects longer than the channel's limit.
    pub too_long: u64,
    /// Objects nested deeper than the channel's limit.
    pub too_deep: u64,
    /// Objects with more keys, values or containers than the channel's limits.
    pub too_wide: u64,
    /// Objects that were no message of the contract.
    pub malformed: u64,
    /// Reports whose merged facts would have passed the limits.
    pub facts_over_limit: u64,
    /// Reports that came without what they were to be merged into.
    pub out_of_sequence: u64,
}

/// What came through a VM's channel since the daemon or the VM started, and
/// what was held back because the guest used up a budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ChannelCounters {
    /// Bytes read from the guest.
    pub received_bytes: u64,
    /// Objects read from the guest, whole or refused.
    pub received_messages: u64,
    /// How often an agent introduced itself.
    pub hellos: u64,
    /// How often the guest opened its port after it was closed.
    pub port_opens: u64,
    /// How often the host connected to the channel.
    pub connections: u64,
    /// How often the guest was not read for a while because it used up a
    /// budget.
    pub pauses: ChannelPauses,
    /// How long those pauses took together, in seconds.
    pub paused_s: f64,
    /// Times that the agent came, fell silent or went which were not told as
    /// events, because it happened too often.
    pub withheld_changes: u64,
    /// Lines that the guest caused and that were left out of the daemon's log.
    pub withheld_log_lines: u64,
}

/// Pauses by the budget that was used up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ChannelPauses {
    /// Bytes that had to be looked at.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Keys and values in reports.
    pub values: u64,
    /// Events caused.
    pub events: u64,
    /// Bytes of events caused.
    pub event_bytes: u64,
    /// Hellos.
    pub hellos: u64,
}

impl ChannelPauses {
    /// Each budget's name and count.
    pub fn each(&self) -> [(&'static str, u64); 6] {
        [
            ("bytes", self.bytes),
            ("messages", self.messages),
            ("values", self.values),
            ("events", self.events),
            ("event-bytes", self.event_bytes),
            ("hellos", self.hellos),
        ]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.each().iter().map(|(_, pauses)| pauses).sum()
    }
}
