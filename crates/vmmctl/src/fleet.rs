//! What is known of all VMs at this moment, kept by what the daemon says as it
//! happens. Pure: time and events come in from outside.
//!
//! Of every VM it is known how it stands. What a guest tells is asked for only
//! of those that are shown: ten thousand guests tell more in a second than
//! anybody reads.

use std::collections::HashMap;

use guest_protocol::facts::Facts;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;
use vmm_api::event::{Event, EventKind};
use vmm_api::guest::{AgentState, Guest, GuestSummary};
use vmm_api::list::{Filter, Seen, Sort};
use vmm_api::vm::{State, Vm};

/// All VMs that are watched.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    members: HashMap<Uuid, Member>,
    /// Names or ids; empty means all VMs.
    only: Vec<String>,
    filter: Filter,
    sort: Sort,
    /// What somebody looks for among them.
    found: Filter,
    /// The VMs that fit, in order, as far as that is known.
    rows: Option<Vec<Uuid>>,
}

/// A VM with what its guest told.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) vm: Vm,
    pub(crate) facts: Facts,
    pub(crate) clock_offset_s: Option<f64>,
    heard_at: Option<Timestamp>,
    /// When its guest was asked for last in this run.
    asked_at: Option<Timestamp>,
}

/// What an event asks of whoever keeps the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing to see.
    None,
    /// Something to see.
    Visible,
    /// The daemon has to be asked for a VM.
    Ask(Uuid),
    /// The daemon has to be asked for everything: events are missing.
    AskAll,
}

/// How many VMs of a fleet are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) all: usize,
    states: [usize; State::ALL.len()],
    pub(crate) silent: usize,
}

impl Totals {
    /// How many are in one of these states.
    pub(crate) fn of(&self, states: &[State]) -> usize {
        let counted = State::ALL.iter().zip(self.states);
        counted.filter(|(state, _)| states.contains(state)).map(|(_, count)| count).sum()
    }
}

impl Fleet {
    /// Those of `only` (names or ids; all when empty) that fit `filter`, in the
    /// order of `sort`.
    pub(crate) fn new(only: Vec<String>, filter: Filter, sort: Sort) -> Self {
        Self { only, filter, sort, ..Self::default() }
    }

    /// The names or ids of those that are watched; empty when all are.
    pub(crate) fn only(&self) -> &[String] {
        &self.only
    }

    /// What the daemon has to be asked for: all that could come to fit. A VM's
    /// state changes, and counts whether it fits or not.
    pub(crate) fn asks_for(&self) -> Filter {
        let Filter { name, labels, .. } = self.filter.clone();
        Filter { name, labels, ..Filter::default() }
    }

    /// The pattern that names have to fit to be shown.
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.name.as_deref()
    }

    /// Shows only VMs whose names fit.
    pub(crate) fn find(&mut self, pattern: Option<String>) {
        self.found.name = pattern;
        self.rows = None;
    }

    /// In which order.
    pub(crate) fn sort(&self) -> Sort {
        self.sort
    }

    /// The VMs that fit, in order.
    pub(crate) fn rows(&mut self) -> &[Uuid] {
        let rows = self.rows.take().unwrap_or_else(|| self.sorted());
        self.rows.insert(rows)
    }

    /// One of them.
    pub(crate) fn member(&self, id: Uuid) -> Option<&Member> {
        self.members.get(&id)
    }

    /// How they stand, those that do not fit by their state among them.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals { all: self.members.len(), ..Totals::default() };
        for member in self.members.values() {
            let place = State::ALL.iter().position(|state| *state == member.vm.state);
            totals.states[place.unwrap_or_default()] += 1;
            let silent = member.is_live() && member.vm.guest.agent == AgentState::Silent;
            totals.silent += usize::from(silent);
        }
        totals
    }

    /// Those of `shown` whose guests have something to tell and were not asked
    /// for since `before`. They count as asked then.
    pub(crate) fn unasked(
        &mut self,
        shown: &[Uuid],
        before: Timestamp,
        now: Timestamp,
    ) -> Vec<Uuid> {
        let mut unasked = Vec::new();
        for id in shown {
            let Some(member) = self.members.get_mut(id) else { continue };
            if member.is_live() && member.asked_at.is_none_or(|at| at <= before) {
                member.asked_at = Some(now);
                unasked.push(*id);
            }
        }
        unasked
    }

    /// Takes the daemon's list, which is all there is.
    pub(crate) fn listed(&mut self, vms: Vec<Vm>, now: Timestamp) {
        let mut before = std::mem::take(&mut self.members);
        self.members.reserve(vms.len());
        for vm in vms {
            let known = before.remove(&vm.id);
            self.take(vm, known, now);
        }
        self.rows = None;
    }

    /// Takes one VM as the daemon has it.
    pub(crate) fn came(&mut self, vm: Vm, now: Timestamp) {
        let known = self.members.remove(&vm.id);
        self.take(vm, known, now);
        self.rows = None;
    }

    /// Takes what the daemon knows of one guest.
    pub(crate) fn told(&mut self, id: Uuid, guest: Guest, now: Timestamp) {
        let Some(member) = self.members.get_mut(&id) else { return };
        // Whether the agent is there is told by events, which may have come
        // after this was asked for.
        member.heard_at = heard_at(&guest.summary, now);
        member.vm.guest.stage = guest.summary.stage;
        member.clock_offset_s = guest.clock_offset_s;
        member.facts = guest.facts;
    }

    /// Takes an event.
    pub(crate) fn happened(&mut self, event: &Event) -> Change {
        let Some(id) = event.vm else {
            return match event.kind {
                EventKind::Missed { .. } => Change::AskAll,
                _ => Change::None,
            };
        };
        if let EventKind::Created { name } = &event.kind {
            let news = !self.members.contains_key(&id) && self.may_watch(id, name);
            return if news { Change::Ask(id) } else { Change::None };
        }
        let change = match (&event.kind, self.members.get_mut(&id)) {
            (EventKind::Missed { .. }, _) => return Change::AskAll,
            (EventKind::Changed { .. }, Some(_)) => return Change::Ask(id),
            (EventKind::Deleted { .. }, Some(_)) => {
                self.members.remove(&id);
                Change::Visible
            }
            (kind, Some(member)) => member.happened(kind, event.at),
            (_, None) => Change::None,
        };
        if change == Change::Visible {
            self.rows = None;
        }
        change
    }

    fn sorted(&self) -> Vec<Uuid> {
        let members = self.members.values().map(|member| (member, member.seen()));
        let mut rows: Vec<(i64, &str, Uuid)> = members
            .filter(|(_, seen)| self.filter.fits(seen) && self.found.fits(seen))
            .map(|(member, seen)| (self.sort.rank(&seen), &*member.vm.spec.name, member.vm.id))
            .collect();
        rows.sort_unstable_by(|a, b| self.sort.compare((a.0, a.1), (b.0, b.1)));
        rows.into_iter().map(|(_, _, id)| id).collect()
    }

    fn take(&mut self, vm: Vm, known: Option<Member>, now: Timestamp) {
        if !self.may_watch(vm.id, &vm.spec.name) || !self.asks_for().fits(&Seen::from(&vm)) {
            return;
        }
        let mut member = known.unwrap_or_else(|| Member::new(vm.clone()));
        member.heard_at = heard_at(&vm.guest, now);
        member.vm = vm;
        self.members.insert(member.vm.id, member);
    }

    fn may_watch(&self, id: Uuid, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name || *only == id.to_string())
    }
}

impl Member {
    fn new(vm: Vm) -> Self {
        Self { vm, facts: Facts::default(), clock_offset_s: None, heard_at: None, asked_at: None }
    }

    /// Seconds since the agent's last word.
    pub(crate) fn age_s(&self, now: Timestamp) -> Option<f64> {
        self.heard_at.map(|at| now.duration_since(at).as_secs_f64().max(0.0))
    }

    /// Whether there is a guest to speak of.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.vm.state, State::Running | State::Paused | State::Stopping)
            && self.vm.guest.agent != AgentState::Absent
    }

    /// What it is sorted by. The last word of an agent that speaks is not known
    /// of those that are not shown; it was a heartbeat ago.
    fn seen(&self) -> Seen<'_> {
        let mut seen = Seen::from(&self.vm);
        if self.vm.guest.agent == AgentState::Connected {
            seen.age_s = Some(0.0);
        }
        seen
    }

    fn happened(&mut self, kind: &EventKind, at: Timestamp) -> Change {
        match kind {
            EventKind::State { to, detail, .. } => {
                self.vm.state = *to;
                self.vm.state_detail.clone_from(detail);
                self.vm.state_changed_at = at;
                if *to == State::Starting {
                    *self = Self::new(Vm { guest: GuestSummary::default(), ..self.vm.clone() });
                }
            }
            EventKind::Agent { agent } => {
                self.vm.guest.agent = *agent;
                if *agent == AgentState::Connected {
                    self.heard_at = Some(at);
                    // A hello brings the clock, and a new boot's facts.
                    self.asked_at = None;
                }
            }
            EventKind::Lifecycle { lifecycle } => {
                self.vm.guest.stage = Some(lifecycle.stage);
                self.heard_at = Some(at);
            }
            _ => return Change::None,
        }
        Change::Visible
    }
}

fn heard_at(summary: &GuestSummary, now: Timestamp) -> Option<Timestamp> {
    let age = SignedDuration::try_from_secs_f64(summary.age_s?).ok()?;
    now.checked_sub(age).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vmm_api::list::SortKey;

    use super::*;

    fn vm(name: &str) -> Vm {
        serde_json::from_value(json!({
            "id": Uuid::from_u128(u128::from(name.as_bytes()[0])),
            "spec": {"name": name, "vcpus": 1, "memory_mib": 256},
            "state": "running",
            "created_at": "2026-01-01T00:00:00Z",
            "state_changed_at": "2026-01-01T00:00:00Z",
            "guest": {"agent": "connected", "age_s": 2.0},
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn event(vm: &Vm, kind: serde_json::Value) -> Event {
        let mut event = kind;
        event["vm"] = json!(vm.id);
        event["at"] = json!("2026-01-01T00:01:00Z");
        serde_json::from_value(event).unwrap()
    }

    fn state(vm: &Vm, to: &str) -> Event {
        event(vm, json!({"kind": "state", "from": "running", "to": to}))
    }

    fn names(fleet: &mut Fleet) -> Vec<String> {
        let rows = fleet.rows().to_vec();
        rows.iter().map(|id| fleet.member(*id).unwrap().vm.spec.name.clone()).collect()
    }

    #[test]
    fn guests_are_asked_for_when_they_are_shown_and_not_too_often() {
        let mut fleet = Fleet::default();
        let (web, db, mut old) = (vm("web"), vm("db"), vm("old"));
        old.state = State::Stopped;
        fleet.listed(vec![web.clone(), db.clone(), old.clone()], now());
        let later = now() + SignedDuration::from_secs(3);
        assert_eq!(fleet.unasked(&[web.id, old.id], now(), now()), [web.id]);
        assert_eq!(
            fleet.unasked(&[web.id, db.id], now() - SignedDuration::from_secs(1), now()),
            [db.id]
        );
        assert_eq!(fleet.unasked(&[web.id], now(), later), [web.id]);
        // A hello brings news at once.
        fleet.happened(&event(&web, json!({"kind": "agent", "agent": "connected"})));
        assert_eq!(fleet.unasked(&[web.id], now(), later), [web.id]);
    }

    #[test]
    fn a_new_start_forgets_the_last_run() {
        let mut fleet = Fleet::default();
        let web = vm("web");
        fleet.listed(vec![web.clone()], now());
        fleet.unasked(&[web.id], now(), now());
        let memory = guest_protocol::facts::Memory::default();
        let facts = Facts { memory: Some(memory), ..Facts::default() };
        fleet.told(web.id, Guest { facts, ..Guest::default() }, now());
        assert!(fleet.member(web.id).unwrap().facts.memory.is_some());
        assert_eq!(fleet.happened(&state(&web, "starting")), Change::Visible);
        let member = fleet.member(web.id).unwrap();
        assert_eq!(member.facts, Facts::default());
        assert_eq!((member.age_s(now()), member.asked_at), (None, None));
        assert!(!member.is_live());
    }

    #[test]
    fn ages_grow_from_what_the_daemon_said() {
        let mut fleet = Fleet::default();
        let web = vm("web");
        fleet.listed(vec![web.clone()], now());
        let later = now() + SignedDuration::from_secs(3);
        assert_eq!(fleet.member(web.id).unwrap().age_s(later), Some(5.0));
    }

    #[test]
    fn shows_only_what_is_watched_and_sorts_by_name() {
        let mut fleet =
            Fleet::new(vec!["web".to_owned(), "db".to_owned()], Filter::default(), Sort::default());
        fleet.listed(vec![vm("web"), vm("other"), vm("db")], now());
        assert_eq!(names(&mut fleet), ["db", "web"]);
        let other = vm("other");
        let created = fleet.happened(&event(&other, json!({"kind": "created", "name": "other"})));
        assert_eq!(created, Change::None);
        let gone = fleet.happened(&event(&vm("db"), json!({"kind": "deleted", "name": "db"})));
        assert_eq!(gone, Change::Visible);
        assert_eq!(names(&mut fleet), ["web"]);
        let again = fleet.happened(&event(&vm("db"), json!({"kind": "created", "name": "db"})));
        assert_eq!(again, Change::Ask(vm("db").id));
        fleet.came(vm("db"), now());
        assert_eq!(names(&mut fleet), ["db", "web"]);
    }

    #[test]
    fn problems_come_first_as_they_come_and_go() {
        let sort = Sort { key: SortKey::Problem, descending: false };
        let mut fleet = Fleet::new(Vec::new(), Filter::default(), sort);
        let (a, b, c) = (vm("a"), vm("b"), vm("c"));
        fleet.listed(vec![a.clone(), b.clone(), c.clone()], now());
        assert_eq!(names(&mut fleet), ["a", "b", "c"]);
        fleet.happened(&event(&c, json!({"kind": "agent", "agent": "silent"})));
        assert_eq!(names(&mut fleet), ["c", "a", "b"]);
        fleet.happened(&state(&b, "failed"));
        assert_eq!(names(&mut fleet), ["b", "c", "a"]);
        let totals = fleet.totals();
        assert_eq!((totals.all, totals.of(&[State::Failed]), totals.silent), (3, 1, 1));
        fleet.happened(&event(&c, json!({"kind": "agent", "agent": "connected"})));
        assert_eq!(names(&mut fleet), ["b", "a", "c"]);
    }

    #[test]
    fn a_filter_by_state_follows_the_state() {
        let filter = Filter { states: vec![State::Failed], ..Filter::default() };
        let mut fleet = Fleet::new(Vec::new(), filter, Sort::default());
        assert!(fleet.asks_for().is_empty());
        let (a, b) = (vm("a"), vm("b"));
        fleet.listed(vec![a.clone(), b], now());
        assert!(names(&mut fleet).is_empty());
        fleet.happened(&state(&a, "failed"));
        assert_eq!(names(&mut fleet), ["a"]);
        assert_eq!(fleet.totals().all, 2);
        fleet.find(Some("b*".to_owned()));
        assert!(names(&mut fleet).is_empty());
    }

    #[test]
    fn a_gap_asks_for_everything() {
        let missed = json!({"kind": "missed", "at": "2026-01-01T00:01:00Z"});
        let event = serde_json::from_value(missed).unwrap();
        assert_eq!(Fleet::default().happened(&event), Change::AskAll);
    }
}
