//! Which VMs a list shows, and in which order. The daemon answers by these
//! rules, and a client that keeps a list of its own follows the same ones.

use std::cmp::Ordering;
use std::str::FromStr;

use jiff::Timestamp;

use crate::guest::{AgentState, GuestSummary};
use crate::vm::{State, Vm, VmSpec};

/// What a filter and an order look at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What was asked for.
    pub spec: &'a VmSpec,
    /// What the hypervisor does with the VM.
    pub state: State,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub state_changed_at: Timestamp,
    /// Whether its agent is there.
    pub agent: AgentState,
    /// Seconds since the agent's last word.
    pub age_s: Option<f64>,
}

impl<'a> From<&'a Vm> for Seen<'a> {
    fn from(vm: &'a Vm) -> Self {
        let GuestSummary { agent, age_s, .. } = vm.guest;
        let Vm { spec, state, created_at, state_changed_at, .. } = vm;
        let (state, created_at, state_changed_at) = (*state, *created_at, *state_changed_at);
        Self { spec, state, created_at, state_changed_at, agent, age_s }
    }
}

impl Seen<'_> {
    /// Whether there is a guest to speak of.
    fn is_live(&self) -> bool {
        matches!(self.state, State::Running | State::Paused | State::Stopping)
    }
}

/// Which VMs a list shows: those that fit everything that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In any of these states; in any at all when empty.
    pub states: Vec<State>,
    /// Whose agent is in any of these; in any at all when empty.
    pub agents: Vec<AgentState>,
    /// Whose name fits: `*` stands for any characters, `?` for one.
    pub name: Option<String>,
    /// With all of these labels: key and value.
    pub labels: Vec<(String, String)>,
}

impl Filter {
    /// Whether every VM fits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a VM fits.
    pub fn fits(&self, vm: &Seen<'_>) -> bool {
        (self.states.is_empty() || self.states.contains(&vm.state))
            && (self.agents.is_empty() || self.agents.contains(&vm.agent))
            && self
                .name
                .as_ref()
                .is_none_or(|pattern| fits_pattern(pattern.as_bytes(), vm.spec.name.as_bytes()))
            && self.labels.iter().all(|(key, value)| vm.spec.labels.get(key) == Some(value))
    }
}

/// Goes back to the last `*` alone, so that no pattern costs more than the
/// product of both lengths.
fn fits_pattern(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star = None;
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(b'?') => (at, from) = (at + 1, from + 1),
            Some(byte) if *byte == name[from] => (at, from) = (at + 1, from + 1),
            _ => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (at, from) = (after + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// What a list is sorted by. Equals are sorted by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// The name.
    #[default]
    Name,
    /// The state, in the order of a VM's life.
    State,
    /// When the VM was created: the oldest first.
    CreatedAt,
    /// When the state last changed: the longest ago first.
    StateChangedAt,
    /// How long the agent has been silent: what was heard last comes first,
    /// VMs without an agent last in either direction.
    AgentAge,
    /// What is wrong: failed, then a silent agent, then the others.
    Problem,
    /// The memory: the smallest first.
    MemoryMib,
    /// The processors: the fewest first.
    Vcpus,
}

impl SortKey {
    /// Every key.
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::State,
        Self::CreatedAt,
        Self::StateChangedAt,
        Self::AgentAge,
        Self::Problem,
        Self::MemoryMib,
        Self::Vcpus,
    ];

    /// The word that stands for it on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::CreatedAt => "created_at",
            Self::StateChangedAt => "state_changed_at",
            Self::AgentAge => "agent_age",
            Self::Problem => "problem",
            Self::MemoryMib => "memory_mib",
            Self::Vcpus => "vcpus",
        }
    }

    /// Whether a VM keeps its place for as long as it exists.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Name | Self::CreatedAt | Self::MemoryMib | Self::Vcpus)
    }
}

impl FromStr for SortKey {
    type Err = UnknownSort;

    fn from_str(word: &str) -> Result<Self, UnknownSort> {
        Self::ALL.into_iter().find(|key| key.as_str() == word).ok_or(UnknownSort)
    }
}

/// An order: `created_at` on the wire, or `-created_at` for the other way
/// round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub key: SortKey,
    /// Whether the order is turned round.
    pub descending: bool,
}

impl Sort {
    /// Where a VM stands, but for its name: the smallest first.
    pub fn rank(self, vm: &Seen<'_>) -> i64 {
        let rank = match self.key {
            SortKey::Name => 0,
            SortKey::State => {
                State::ALL.iter().position(|state| *state == vm.state).map_or(0, whole)
            }
            SortKey::CreatedAt => vm.created_at.as_microsecond(),
            SortKey::StateChangedAt => vm.state_changed_at.as_microsecond(),
            SortKey::AgentAge => match vm.age_s.filter(|_| vm.is_live()) {
                #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
                Some(seconds) => (seconds * 1000.0) as i64,
                None => return i64::MAX,
            },
            SortKey::Problem => match (vm.state, vm.agent) {
                (State::Failed, _) => 0,
                (_, AgentState::Silent) if vm.is_live() => 1,
                _ => 2,
            },
            SortKey::MemoryMib => whole(vm.spec.memory_mib),
            SortKey::Vcpus => i64::from(vm.spec.vcpus),
        };
        if self.descending { -rank } else { rank }
    }

    /// The order of two VMs by their ranks and their names.
    pub fn compare(self, one: (i64, &str), other: (i64, &str)) -> Ordering {
        let names = one.1.cmp(other.1);
        let turned = self.descending && self.key == SortKey::Name;
        one.0.cmp(&other.0).then(if turned { names.reverse() } else { names })
    }
}

fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

impl FromStr for Sort {
    type Err = UnknownSort;

    fn from_str(text: &str) -> Result<Self, UnknownSort> {
        let (key, descending) = match text.strip_prefix('-') {
            Some(key) => (key, true),
            None => (text, false),
        };
        Ok(Self { key: key.parse()?, descending })
    }
}

impl std::fmt::Display for Sort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.descending { "-" } else { "" })?;
        f.write_str(self.key.as_str())
    }
}

/// A word that is no [`SortKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the keys are name, state, created_at, state_changed_at, agent_age, problem, memory_mib and vcpus"
)]
pub struct UnknownSort;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        fits_pattern(pattern.as_bytes(), name.as_bytes())
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, name) in
            [("web-*", "web-1"), ("*", "a"), ("w?b*", "web"), ("*-1", "a-1-1"), ("a*b*c", "axbxbc")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("web", "web-1"), ("web-?", "web-"), ("*-2", "a-1"), ("", "a")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn every_word_is_read_back_and_named_in_the_error() {
        for key in SortKey::ALL {
            for descending in [false, true] {
                let sort = Sort { key, descending };
                assert_eq!(sort.to_string().parse(), Ok(sort));
            }
            assert!(UnknownSort.to_string().contains(key.as_str()));
        }
        assert_eq!("--name".parse::<Sort>(), Err(UnknownSort));
    }

    proptest! {
        /// A plain and slow matcher says the same.
        #[test]
        fn matches_as_the_definition_says(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, rest) => rest.is_none(),
                    (Some((b'*', more)), rest) => {
                        slow(more, name) || rest.is_some_and(|(_, left)| slow(pattern, left))
                    }
                    (Some((want, more)), Some((have, left))) => {
                        (*want == b'?' || want == have) && slow(more, left)
                    }
                    (Some(_), None) => false,
                }
            }
            prop_assert_eq!(fits(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
