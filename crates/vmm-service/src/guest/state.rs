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
use vmm_api::guest::{AgentState, ChannelDrops, Guest, GuestSummary};

use super::facts::{MergedFacts, Rejected};
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

#[derive(Debug, Default)]
struct Known {
    agent: AgentState,
    /// Whether the guest's session is confirmed, so that it obeys.
    confirmed: bool,
    /// The hypervisor said that the guest closed its port. What still comes
    /// was said before.
    port_closed: bool,
    heard: Option<Instant>,
    identity: Option<Identity>,
    clock_offset_s: Option<f64>,
    facts: MergedFacts,
    facts_at: Option<Timestamp>,
    /// At most one entry a stage.
    boot: Vec<Lifecycle>,
    drops: ChannelDrops,
}

#[derive(Debug)]
struct Identity {
    agent_id: String,
    agent: String,
    boot_id: String,
    capabilities: Vec<String>,
}

impl GuestState {
    pub(super) fn new(vm: Uuid, events: EventBus) -> Self {
        Self { vm, events, known: Mutex::default() }
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

    /// The guest told facts. Says whether they were taken.
    pub(super) fn report(&self, report: Report) -> bool {
        let mut known = self.lock();
        self.spoke(&mut known);
        let Report { full, facts, .. } = report;
        let told = if full { known.facts.replace(&facts) } else { known.facts.merge(&facts) };
        match told {
            Ok(()) => {
                known.facts_at = Some(Timestamp::now());
                self.events.publish(Some(self.vm), EventKind::Facts { full, facts });
            }
            Err(Rejected::NotAnObject) => known.drops.malformed += 1,
            Err(Rejected::OverLimit) => known.drops.facts_over_limit += 1,
        }
        told.is_ok()
    }

    /// The guest reached a stage. One that is told again as it was, as after a
    /// reconnect, is no news; one that was reached again moves to the end.
    pub(super) fn lifecycle(&self, mut lifecycle: Lifecycle) {
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
            return;
        }
        known.boot.retain(|earlier| earlier.stage != lifecycle.stage);
        known.boot.push(lifecycle.clone());
        self.events.publish(Some(self.vm), EventKind::Lifecycle { lifecycle });
    }

    /// Nothing is confirmed any more; the agent may well be there.
    pub(super) fn unconfirmed(&self) {
        self.lock().confirmed = false;
    }

    /// The VM's channel is served from now on; whether the guest's port is
    /// open is not known yet.
    pub(super) fn attached(&self) {
        self.lock().port_closed = false;
    }

    /// The guest opened or closed its port.
    pub(super) fn port(&self, open: bool) {
        let mut known = self.lock();
        known.port_closed = !open;
        if !open {
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

    /// Notices that the guest has been silent for `patience`.
    pub(super) fn check_silence(&self, patience: Duration) {
        let mut known = self.lock();
        let silent = known.heard.is_none_or(|heard| heard.elapsed() >= patience);
        if silent && known.agent == AgentState::Connected {
            self.set_agent(&mut known, AgentState::Silent);
        }
    }

    pub(super) fn discarded(&self, reason: Discard, bytes: usize) {
        let mut known = self.lock();
        match reason {
            Discard::Garbage => known.drops.garbage_bytes += bytes as u64,
            Discard::TooLong => known.drops.too_long += 1,
            Discard::TooDeep => known.drops.too_deep += 1,
        }
    }

    pub(super) fn malformed(&self) {
        self.lock().drops.malformed += 1;
    }

    pub(super) fn throttled(&self) {
        let mut known = self.lock();
        if known.drops.throttled == 0 {
            tracing::warn!(vm = %self.vm, "A guest sends too fast and is read more slowly.");
        }
        known.drops.throttled += 1;
    }

    fn spoke(&self, known: &mut Known) {
        known.heard = Some(Instant::now());
        if known.confirmed && !known.port_closed {
            self.set_agent(known, AgentState::Connected);
        }
    }

    fn set_agent(&self, known: &mut Known, agent: AgentState) {
        if known.agent == agent {
            return;
        }
        known.agent = agent;
        let vm = self.vm;
        match agent {
            AgentState::Connected => {
                let agent = known.identity.as_ref().map_or("", |identity| &identity.agent);
                // The guest's own text: what is no plain character is escaped.
                let agent = agent.escape_debug();
                tracing::info!(%vm, %agent, "The guest's agent is connected.");
            }
            AgentState::Silent => tracing::warn!(%vm, "The guest's agent is silent."),
            AgentState::Absent => tracing::info!(%vm, "The guest's agent is gone."),
        }
        self.events.publish(Some(vm), EventKind::Agent { agent });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing under the lock is left half done in a way that matters more
        // than going on.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn told(stage: Stage, uptime_ms: u64) -> Lifecycle {
        Lifecycle { stage, uptime_ms, detail: None }
    }

    #[test]
    fn a_renewed_lease_is_no_step_back() {
        let state = GuestState::new(Uuid::nil(), EventBus::new(8));
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
        let state = GuestState::new(Uuid::nil(), EventBus::new(8));
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
        let state = GuestState::new(Uuid::nil(), events);
        state.lifecycle(told(Stage::LoginReady, 5));
        state.lifecycle(told(Stage::LoginReady, 5));
        assert!(subscriber.next().now_or_never().is_some());
        assert!(subscriber.next().now_or_never().is_none());
    }

    #[test]
    fn a_long_detail_is_dropped_and_the_stage_kept() {
        let state = GuestState::new(Uuid::nil(), EventBus::new(8));
        let detail = Some("x".repeat(MAX_DETAIL_BYTES).into());
        state.lifecycle(Lifecycle { detail, ..told(Stage::LoginReady, 5) });
        assert_eq!(state.guest().boot, [told(Stage::LoginReady, 5)]);
        assert_eq!(state.guest().dropped.malformed, 1);
    }
}
