//! What is known of one guest, and the only way to change it: each change is
//! published as it is made, under the guest's own lock, so that the stream of
//! events and what can be read here never disagree about the order.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use guest_protocol::codec::Discard;
use guest_protocol::message::{self, Hello, Lifecycle, Report, Stage};
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;
use vmm_api::event::EventKind;
use vmm_api::guest::{AgentState, ChannelCounters, ChannelDrops, Guest, GuestSummary};

use super::budget::{Allowance, Cost, Limits, Pause};
use super::facts::{MergedFacts, Rejected, Weight};
use crate::events::EventBus;

/// The longest text in a hello: names, versions and identifiers, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 256;

/// How many capabilities a hello may list: every command of QEMU's agent and
/// ours, several times over.
const MAX_CAPABILITIES: usize = 512;

/// How long a stage's `detail` may be, in bytes of JSON.
const MAX_DETAIL_BYTES: usize = 4096;

/// What is known of one guest.
#[derive(Debug)]
pub(super) struct GuestState {
    vm: Uuid,
    events: EventBus,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    agent: AgentState,
    /// What was told of it last, as an event and in the log.
    told_agent: AgentState,
    changes: Allowance,
    log_lines: Allowance,
    /// Whether the guest's session is confirmed, so that it obeys.
    confirmed: bool,
    /// Whether the guest's port is open, if the hypervisor has said so. What
    /// still comes from a closed one was said before.
    port_open: Option<bool>,
    heard: Option<Instant>,
    identity: Option<Identity>,
    clock_offset_s: Option<f64>,
    facts: MergedFacts,
    facts_at: Option<Timestamp>,
    /// At most one entry a stage.
    boot: Vec<Lifecycle>,
    drops: ChannelDrops,
    channel: ChannelCounters,
}

/// What came of a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Whether the facts were taken, and an event published.
    pub(super) taken: bool,
    /// What the facts in it weigh.
    pub(super) weight: Weight,
}

#[derive(Debug)]
struct Identity {
    agent_id: String,
    agent: String,
    boot_id: String,
    capabilities: Vec<String>,
}

impl GuestState {
    pub(super) fn new(vm: Uuid, events: EventBus, limits: &Limits) -> Self {
        let now = Instant::now();
        let known = Known {
            agent: AgentState::default(),
            told_agent: AgentState::default(),
            changes: Allowance::new(limits.changes, now),
            log_lines: Allowance::new(limits.log_lines, now),
            confirmed: false,
            port_open: None,
            heard: None,
            identity: None,
            clock_offset_s: None,
            facts: MergedFacts::default(),
            facts_at: None,
            boot: Vec::new(),
            drops: ChannelDrops::default(),
            channel: ChannelCounters::default(),
        };
        Self { vm, events, known: Mutex::new(known) }
    }

    pub(super) fn vm(&self) -> Uuid {
        self.vm
    }

    pub(super) fn summary(&self) -> GuestSummary {
        self.lock().summary()
    }

    pub(super) fn guest(&self) -> Guest {
        let known = self.lock();
        let (facts, misfits) = known.facts.typed();
        let mut dropped = known.drops.clone();
        // Counted as they are now: a section that does not fit stays one
        // section however often it is reported.
        dropped.malformed += misfits;
        let identity = known.identity.as_ref();
        Guest {
            summary: known.summary(),
            agent_version: identity.map(|identity| identity.agent.clone()),
            agent_id: identity.map(|identity| identity.agent_id.clone()),
            capabilities: identity
                .map(|identity| identity.capabilities.clone())
                .unwrap_or_default(),
            clock_offset_s: known.clock_offset_s,
            facts_at: known.facts_at,
            facts,
            boot: known.boot.clone(),
            dropped,
            channel: known.channel.clone(),
        }
    }

    /// Whether the guest may be sent commands now; with a name, whether its
    /// policy allows that one.
    pub(super) fn may(&self, command: &str) -> Option<bool> {
        let known = self.lock();
        let identity = known.identity.as_ref()?;
        let there = known.confirmed && known.agent == AgentState::Connected;
        there.then(|| identity.capabilities.iter().any(|allowed| allowed == command))
    }

    /// The guest introduced itself and will be confirmed.
    pub(super) fn hello(&self, hello: Hello) {
        let mut known = self.lock();
        let rebooted =
            known.identity.as_ref().is_some_and(|identity| identity.boot_id != hello.boot_id);
        if rebooted {
            known.boot.clear();
        }
        known.identity = Some(Identity {
            agent_id: hello.agent_id,
            agent: hello.agent,
            boot_id: hello.boot_id,
            capabilities: hello.capabilities,
        });
        known.confirmed = true;
        self.spoke(&mut known);
    }

    /// Something came that only a peer of the present session says.
    pub(super) fn heard(&self) {
        self.spoke(&mut self.lock());
    }

    /// What the guest's clock shows, as it stands on every event: a guest that
    /// has something to report sends no heartbeats.
    pub(super) fn clock(&self, guest: message::Timestamp) {
        let host = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let guest = guest.seconds as f64 + f64::from(guest.microseconds) / 1e6;
        self.lock().clock_offset_s = Some(guest - host);
    }

    /// The guest told facts.
    pub(super) fn report(&self, report: Report) -> Told {
        let Report { full, facts, .. } = report;
        let weight = Weight::of(&facts);
        let mut known = self.lock();
        self.spoke(&mut known);
        let merged = if full {
            known.facts.replace(&facts, weight)
        } else {
            known.facts.merge(&facts, weight)
        };
        match merged {
            Ok(()) => {
                known.facts_at = Some(Timestamp::now());
                self.events.publish(Some(self.vm), EventKind::Facts { full, facts });
            }
            Err(Rejected::NotAnObject) => known.drops.malformed += 1,
            Err(Rejected::OverLimit) => known.drops.facts_over_limit += 1,
        }
        Told { taken: merged.is_ok(), weight }
    }

    /// The guest reached a stage. One that is told again as it was, as after a
    /// reconnect, is no news; one that was reached again moves to the end. Says
    /// whether an event was published.
    pub(super) fn lifecycle(&self, mut lifecycle: Lifecycle) -> bool {
        let mut known = self.lock();
        self.spoke(&mut known);
        let too_long = lifecycle.detail.as_ref().is_some_and(|detail| {
            guest_protocol::merge_patch::measure(detail).bytes > MAX_DETAIL_BYTES
        });
        if too_long {
            lifecycle.detail = None;
            known.drops.malformed += 1;
        }
        if known.boot.contains(&lifecycle) {
            return false;
        }
        known.boot.retain(|earlier| earlier.stage != lifecycle.stage);
        known.boot.push(lifecycle.clone());
        self.events.publish(Some(self.vm), EventKind::Lifecycle { lifecycle });
        true
    }

    /// Nothing is confirmed any more; the agent may well be there.
    pub(super) fn unconfirmed(&self) {
        self.lock().confirmed = false;
    }

    /// The VM's channel is served from now on; whether the guest's port is
    /// open is not known yet.
    pub(super) fn attached(&self) {
        self.lock().port_open = None;
    }

    /// The host connected to the channel.
    pub(super) fn connected(&self) {
        self.lock().channel.connections += 1;
    }

    /// The VM's channel is served no more.
    pub(super) fn detached(&self) {
        let mut known = self.lock();
        known.port_open = Some(false);
        known.confirmed = false;
        known.agent = AgentState::Absent;
        // The host's doing, and told at once: nobody would tell it later.
        self.tell_agent(&mut known, 0);
    }

    /// The guest opened or closed its port.
    pub(super) fn port(&self, open: bool) {
        let mut known = self.lock();
        let before = known.port_open.replace(open);
        if open {
            known.channel.port_opens += u64::from(before == Some(false));
        } else {
            known.confirmed = false;
            self.set_agent(&mut known, AgentState::Absent);
        }
    }

    /// The guest was reset: what it said of this boot is void.
    pub(super) fn reset(&self) {
        let mut known = self.lock();
        known.confirmed = false;
        known.boot.clear();
        self.set_agent(&mut known, AgentState::Absent);
    }

    /// Notices that the guest has been silent for `patience`, and tells what
    /// had to wait.
    pub(super) fn check_silence(&self, patience: Duration) {
        let mut known = self.lock();
        let silent = known.heard.is_none_or(|heard| heard.elapsed() >= patience);
        if silent && known.agent == AgentState::Connected {
            self.set_agent(&mut known, AgentState::Silent);
        } else {
            self.try_to_tell_agent(&mut known);
        }
    }

    /// Counts what was read.
    pub(super) fn received(&self, bytes: u64, messages: u64) {
        let mut known = self.lock();
        known.channel.received_bytes += bytes;
        known.channel.received_messages += messages;
    }

    pub(super) fn discarded(&self, reason: Discard, bytes: usize) {
        let mut known = self.lock();
        match reason {
            Discard::Garbage => known.drops.garbage_bytes += bytes as u64,
            Discard::TooLong => known.drops.too_long += 1,
            Discard::TooDeep => known.drops.too_deep += 1,
            Discard::TooWide => known.drops.too_wide += 1,
        }
    }

    pub(super) fn malformed(&self) {
        self.lock().drops.malformed += 1;
    }

    /// A report came without what it was to be merged into.
    pub(super) fn out_of_sequence(&self) {
        let mut known = self.lock();
        known.drops.out_of_sequence += 1;
        self.spoke(&mut known);
    }

    /// The guest introduced itself, rightly or not.
    pub(super) fn introduced(&self) {
        self.lock().channel.hellos += 1;
    }

    /// The guest is not read for a while.
    pub(super) fn paused(&self, pause: Pause) {
        let mut known = self.lock();
        known.channel.paused_s += pause.time.as_secs_f64();
        let pauses = &mut known.channel.pauses;
        let (what, count) = match pause.cost {
            Cost::Bytes => ("bytes", &mut pauses.bytes),
            Cost::Messages => ("messages", &mut pauses.messages),
            Cost::Values => ("facts", &mut pauses.values),
            Cost::Events => ("events", &mut pauses.events),
            Cost::EventBytes => ("bytes of events", &mut pauses.event_bytes),
            Cost::Hellos => ("hellos", &mut pauses.hellos),
        };
        // What goes on is told by the counters.
        if *count == 0 {
            tracing::warn!(vm = %self.vm, "A guest sends too many {what} and is read more slowly.");
        }
        *count += 1;
    }

    /// Whether the guest may cause a line in the log, and how many were left
    /// out since the last one.
    pub(super) fn log_line(&self) -> Option<LeftOut> {
        let mut known = self.lock();
        let allowed = known.log_lines.take(Instant::now());
        if allowed.is_none() {
            known.log_lines.withhold();
            known.channel.withheld_log_lines += 1;
        }
        allowed.map(LeftOut)
    }

    fn spoke(&self, known: &mut Known) {
        known.heard = Some(Instant::now());
        if known.confirmed && known.port_open != Some(false) {
            self.set_agent(known, AgentState::Connected);
        }
    }

    fn set_agent(&self, known: &mut Known, agent: AgentState) {
        if known.agent == agent {
            return;
        }
        known.agent = agent;
        if !self.try_to_tell_agent(known) {
            known.changes.withhold();
            known.channel.withheld_changes += 1;
        }
    }

    /// Tells how the agent is, unless that is what was told last. Says whether
    /// it is told.
    fn try_to_tell_agent(&self, known: &mut Known) -> bool {
        if known.told_agent == known.agent {
            return true;
        }
        let allowed = known.changes.take(Instant::now());
        if let Some(withheld) = allowed {
            self.tell_agent(known, withheld);
        }
        allowed.is_some()
    }

    fn tell_agent(&self, known: &mut Known, withheld: u64) {
        if known.told_agent == known.agent {
            return;
        }
        known.told_agent = known.agent;
        let (vm, agent, left_out) = (self.vm, known.agent, LeftOut(withheld));
        match agent {
            AgentState::Connected => {
                let agent = known.identity.as_ref().map_or("", |identity| &identity.agent);
                // The guest's own text: what is no plain character is escaped.
                let agent = agent.escape_debug();
                tracing::info!(%vm, %agent, "The guest's agent is connected.{left_out}");
            }
            AgentState::Silent => tracing::warn!(%vm, "The guest's agent is silent.{left_out}"),
            AgentState::Absent => tracing::info!(%vm, "The guest's agent is gone.{left_out}"),
        }
        self.events.publish(Some(vm), EventKind::Agent { agent });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing under the lock is left half done in a way that matters more
        // than going on.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that were left out before one of the log, as its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftOut(u64);

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" One line before this one was left out."),
            lines => write!(f, " {lines} lines before this one were left out."),
        }
    }
}

impl Known {
    fn summary(&self) -> GuestSummary {
        GuestSummary {
            agent: self.agent,
            age_s: self.heard.map(|heard| heard.elapsed().as_secs_f64()),
            stage: last_stage(&self.boot),
        }
    }
}

/// Whether a hello is within the limits on its texts.
pub(super) fn is_sane(hello: &Hello) -> bool {
    let texts = [&hello.session, &hello.agent_id, &hello.agent, &hello.boot_id];
    texts.into_iter().chain(&hello.capabilities).all(|text| text.len() <= MAX_TEXT_BYTES)
        && hello.capabilities.len() <= MAX_CAPABILITIES
        && !hello.session.is_empty()
}

/// How far a boot has come. The stages of the way up may be told in any order,
/// and again, as when a lease is renewed: the furthest counts. What comes after
/// a boot may alternate: the last one counts.
fn last_stage(boot: &[Lifecycle]) -> Option<Stage> {
    let after = boot.iter().rev().find(|told| told.stage >= Stage::ShutdownStarted);
    let furthest = || boot.iter().max_by_key(|told| told.stage);
    after.or_else(furthest).map(|told| told.stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(events: EventBus) -> GuestState {
        GuestState::new(Uuid::nil(), events, &crate::guest::budget::LIMITS)
    }

    fn told(stage: Stage, uptime_ms: u64) -> Lifecycle {
        Lifecycle { stage, uptime_ms, detail: None }
    }

    #[test]
    fn a_renewed_lease_is_no_step_back() {
        let state = state(EventBus::new(8));
        for stage in [Stage::AddressAcquired, Stage::BootComplete] {
            state.lifecycle(told(stage, 1));
        }
        state.lifecycle(told(Stage::AddressAcquired, 9));
        assert_eq!(state.summary().stage, Some(Stage::BootComplete));
        assert_eq!(state.guest().boot.len(), 2);
        assert_eq!(state.guest().boot[1], told(Stage::AddressAcquired, 9));
    }

    #[test]
    fn suspend_and_resume_alternate() {
        let state = state(EventBus::new(8));
        for (uptime_ms, stage) in
            (1..).zip([Stage::BootComplete, Stage::Suspend, Stage::Resume, Stage::Suspend])
        {
            state.lifecycle(told(stage, uptime_ms));
            assert_eq!(state.summary().stage, Some(stage));
        }
    }

    #[test]
    fn a_stage_told_again_is_no_news() {
        use futures_util::FutureExt;
        let events = EventBus::new(8);
        let mut subscriber = events.subscribe(None);
        let state = state(events);
        state.lifecycle(told(Stage::LoginReady, 5));
        state.lifecycle(told(Stage::LoginReady, 5));
        assert!(subscriber.next().now_or_never().is_some());
        assert!(subscriber.next().now_or_never().is_none());
    }

    #[test]
    fn a_long_detail_is_dropped_and_the_stage_kept() {
        let state = state(EventBus::new(8));
        let detail = Some("x".repeat(MAX_DETAIL_BYTES).into());
        state.lifecycle(Lifecycle { detail, ..told(Stage::LoginReady, 5) });
        assert_eq!(state.guest().boot, [told(Stage::LoginReady, 5)]);
        assert_eq!(state.guest().dropped.malformed, 1);
    }
}
