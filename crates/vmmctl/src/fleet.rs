//! What is known of all VMs at this moment, kept by what the daemon says as it
//! happens. Pure: time and events come in from outside.

use std::collections::BTreeMap;

use guest_protocol::facts::Facts;
use guest_protocol::merge_patch;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;
use vmm_api::event::{Event, EventKind};
use vmm_api::guest::{AgentState, Guest, GuestSummary};
use vmm_api::vm::{State, Vm};

/// All VMs that are watched.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    members: BTreeMap<Uuid, Member>,
    /// Names or ids; empty means all VMs.
    only: Vec<String>,
}

/// A VM with what its guest told.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) vm: Vm,
    pub(crate) facts: Facts,
    pub(crate) clock_offset_s: Option<f64>,
    /// The facts as they came, because a merge patch applies to those.
    told: Value,
    heard_at: Option<Timestamp>,
    /// Whether the facts were asked for since the VM's run began.
    asked: bool,
}

/// What an event asks of whoever keeps the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing to see.
    None,
    /// Something to see.
    Visible,
    /// The daemon has to be asked for the VMs.
    Ask,
    /// The daemon has to be asked for everything: events are missing.
    AskAll,
}

impl Fleet {
    pub(crate) fn new(only: Vec<String>) -> Self {
        Self { members: BTreeMap::new(), only }
    }

    /// The VMs, sorted by name.
    pub(crate) fn sorted(&self) -> Vec<&Member> {
        let mut members: Vec<&Member> = self.members.values().collect();
        members.sort_by(|a, b| a.vm.spec.name.cmp(&b.vm.spec.name));
        members
    }

    /// The VMs whose guests nobody has asked for yet.
    pub(crate) fn unasked(&self) -> Vec<Uuid> {
        self.members.values().filter(|member| !member.asked).map(|member| member.vm.id).collect()
    }

    /// Takes the daemon's list, which is all there is.
    pub(crate) fn listed(&mut self, vms: Vec<Vm>, now: Timestamp) {
        let mut before = std::mem::take(&mut self.members);
        for vm in vms {
            if !self.watches(&vm) {
                continue;
            }
            let mut member = before.remove(&vm.id).unwrap_or_else(|| Member::new(vm.clone()));
            member.heard_at = heard_at(&vm.guest, now);
            member.vm = vm;
            self.members.insert(member.vm.id, member);
        }
    }

    /// Takes what the daemon knows of one guest.
    pub(crate) fn told(&mut self, id: Uuid, guest: Guest, now: Timestamp) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.asked = true;
        member.heard_at = heard_at(&guest.summary, now);
        member.vm.guest = guest.summary;
        member.clock_offset_s = guest.clock_offset_s;
        member.told = serde_json::to_value(&guest.facts).unwrap_or_default();
        member.facts = guest.facts;
    }

    /// Takes an event.
    pub(crate) fn happened(&mut self, event: &Event) -> Change {
        match (&event.kind, event.vm) {
            (EventKind::Missed { .. }, _) => Change::AskAll,
            (EventKind::Created { name }, Some(id)) => {
                let wanted = self.only.is_empty()
                    || self.only.iter().any(|only| only == name || *only == id.to_string());
                if wanted { Change::Ask } else { Change::None }
            }
            (EventKind::Deleted { .. }, Some(id)) => {
                self.members.remove(&id).map_or(Change::None, |_| Change::Visible)
            }
            (EventKind::Changed { .. }, Some(id)) => {
                if self.members.contains_key(&id) {
                    Change::Ask
                } else {
                    Change::None
                }
            }
            (kind, Some(id)) => match self.members.get_mut(&id) {
                Some(member) => member.happened(kind, event.at),
                None => Change::None,
            },
            _ => Change::None,
        }
    }

    fn watches(&self, vm: &Vm) -> bool {
        let id = vm.id.to_string();
        self.only.is_empty() || self.only.iter().any(|only| *only == vm.spec.name || *only == id)
    }
}

impl Member {
    fn new(vm: Vm) -> Self {
        Self {
            vm,
            facts: Facts::default(),
            clock_offset_s: None,
            told: Value::Null,
            heard_at: None,
            asked: false,
        }
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
                    // A hello brings the version and the clock, which no event
                    // carries.
                    self.asked = false;
                    return Change::Ask;
                }
            }
            EventKind::Lifecycle { lifecycle } => {
                self.vm.guest.stage = Some(lifecycle.stage);
                self.heard_at = Some(at);
            }
            EventKind::Facts { full, facts } => {
                self.heard_at = Some(at);
                if *full {
                    self.told.clone_from(facts);
                } else {
                    merge_patch::apply(&mut self.told, facts);
                }
                // Facts of another shape than ours leave the last ones standing.
                if let Ok(facts) = serde_json::from_value(self.told.clone()) {
                    self.facts = facts;
                }
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

    #[test]
    fn patches_change_only_what_they_name() {
        let mut fleet = Fleet::default();
        let web = vm("web");
        fleet.listed(vec![web.clone()], now());
        let facts =
            json!({"memory": {"total_bytes": 9, "available_bytes": 4}, "disks": {"vda": {}}});
        fleet.happened(&event(&web, json!({"kind": "facts", "full": true, "facts": facts})));
        let patch = json!({"memory": {"available_bytes": 3}, "disks": {"vda": null, "vdb": {}}});
        let change =
            fleet.happened(&event(&web, json!({"kind": "facts", "full": false, "facts": patch})));
        assert_eq!(change, Change::Visible);
        let facts = &fleet.sorted()[0].facts;
        assert_eq!(facts.memory.as_ref().unwrap().total_bytes, 9);
        assert_eq!(facts.memory.as_ref().unwrap().available_bytes, 3);
        let disks: Vec<_> = facts.disks.as_ref().unwrap().keys().collect();
        assert_eq!(disks, ["vdb"]);
    }

    #[test]
    fn a_new_start_forgets_the_last_run() {
        let mut fleet = Fleet::default();
        let web = vm("web");
        fleet.listed(vec![web.clone()], now());
        fleet.told(web.id, Guest::default(), now());
        assert!(fleet.unasked().is_empty());
        let change = fleet
            .happened(&event(&web, json!({"kind": "state", "from": "stopped", "to": "starting"})));
        assert_eq!(change, Change::Visible);
        let member = fleet.sorted()[0];
        assert_eq!(member.facts, Facts::default());
        assert_eq!(member.age_s(now()), None);
        assert!(!member.is_live());
        assert_eq!(fleet.unasked(), [web.id]);
    }

    #[test]
    fn ages_grow_from_what_the_daemon_said() {
        let mut fleet = Fleet::default();
        fleet.listed(vec![vm("web")], now());
        let later = now() + SignedDuration::from_secs(3);
        assert_eq!(fleet.sorted()[0].age_s(later), Some(5.0));
    }

    #[test]
    fn shows_only_what_is_watched_and_sorts_by_name() {
        let mut fleet = Fleet::new(vec!["web".to_owned(), "db".to_owned()]);
        fleet.listed(vec![vm("web"), vm("other"), vm("db")], now());
        let names: Vec<_> = fleet.sorted().iter().map(|m| m.vm.spec.name.clone()).collect();
        assert_eq!(names, ["db", "web"]);
        let other = vm("other");
        let created = fleet.happened(&event(&other, json!({"kind": "created", "name": "other"})));
        assert_eq!(created, Change::None);
        let gone = fleet.happened(&event(&vm("db"), json!({"kind": "deleted", "name": "db"})));
        assert_eq!(gone, Change::Visible);
        assert_eq!(fleet.sorted().len(), 1);
    }

    #[test]
    fn a_gap_asks_for_everything() {
        let missed = json!({"kind": "missed", "at": "2026-01-01T00:01:00Z"});
        let event = serde_json::from_value(missed).unwrap();
        assert_eq!(Fleet::default().happened(&event), Change::AskAll);
    }
}
