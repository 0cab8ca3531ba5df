//! Who may command this guest: the owner's word, by name. What a profile allows
//! is a closed list here, so that an upgrade never allows more than before.

use super::{Command, TABLE, find};

/// Profile `baseline-1`: what only tells facts. Later commands join later
/// profiles, never this list.
const BASELINE_1: [&str; 7] = [
    "agent-heartbeat",
    "agent-hello",
    "agent-report",
    "guest-info",
    "guest-ping",
    "guest-sync",
    "guest-sync-delimited",
];

/// What profile `managed` allows beyond `baseline-1`: what an owner who lets
/// others run the machine expects of them.
const MANAGED: [&str; 1] = ["guest-shutdown"];

/// What makes the channel a channel.
const PROTOCOL: [&str; 2] = ["agent-heartbeat", "agent-hello"];

/// A named set of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Only what tells facts.
    #[default]
    Baseline1,
    /// And what manages the machine.
    Managed,
}

impl Profile {
    /// The names by which profiles are chosen.
    pub const NAMES: [(&str, Self); 2] =
        [("baseline-1", Self::Baseline1), ("managed", Self::Managed)];

    /// The profile of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, profile)| profile)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline1 => "baseline-1",
            Self::Managed => "managed",
        }
    }

    fn holds(self, name: &str) -> bool {
        BASELINE_1.contains(&name) || (self == Self::Managed && MANAGED.contains(&name))
    }
}

/// Whether a command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// A profile, widened and narrowed by name. What is denied is denied, whatever
/// allows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    profile: Profile,
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Policy {
    /// Takes the owner's word; the mistakes in it, if there are any.
    pub fn new(
        profile: Profile,
        allow: Vec<String>,
        deny: Vec<String>,
    ) -> Result<Self, Vec<String>> {
        let known: Vec<_> = TABLE.iter().map(|command| command.name).collect();
        let unknown = allow.iter().filter(|name| find(name).is_none()).map(|name| {
            format!("allow names {name:?}, which is no command; known are {}", known.join(", "))
        });
        let needed = deny.iter().filter(|name| PROTOCOL.contains(&&name[..])).map(|name| {
            format!("deny names {name:?}, without which no host can speak to the agent")
        });
        let mistakes: Vec<_> = unknown.chain(needed).collect();
        if mistakes.is_empty() { Ok(Self { profile, allow, deny }) } else { Err(mistakes) }
    }

    /// The denied names that are no commands of this agent: a misspelling, or a
    /// command of another version.
    pub fn denied_but_unknown(&self) -> impl Iterator<Item = &str> {
        self.deny.iter().map(String::as_str).filter(|name| find(name).is_none())
    }

    /// Whether `command` may run.
    pub fn verdict(&self, command: &Command) -> Verdict {
        let named = |list: &[String]| list.iter().any(|name| name == command.name);
        if named(&self.deny) {
            return Verdict::Refused;
        }
        if self.profile.holds(command.name) || named(&self.allow) {
            return Verdict::Allowed;
        }
        Verdict::Refused
    }

    /// Why `command` may not run, and where that is changed.
    pub fn refusal(&self, command: &Command) -> String {
        let name = command.name;
        if self.deny.iter().any(|denied| denied == name) {
            return format!(
                "The command {name} is denied by this guest's policy; its owner may take it out of \
                 `deny` under [policy] in the agent's configuration"
            );
        }
        format!(
            "The command {name} is not in this guest's policy (profile {}); its owner may allow it \
             under [policy] in the agent's configuration",
            self.profile.name()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(profile: Profile, allow: &[&str], deny: &[&str]) -> Policy {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Policy::new(profile, owned(allow), owned(deny)).unwrap()
    }

    fn allowed(policy: &Policy) -> Vec<&'static str> {
        TABLE
            .iter()
            .filter(|command| policy.verdict(command) == Verdict::Allowed)
            .map(|command| command.name)
            .collect()
    }

    #[test]
    fn the_baseline_is_a_closed_list_that_changes_nothing() {
        let names = allowed(&policy(Profile::Baseline1, &[], &[]));
        assert_eq!(names, BASELINE_1);
        assert!(names.iter().all(|name| !find(name).unwrap().changes_state));
    }

    #[test]
    fn managed_adds_shutdown_and_nothing_else() {
        let baseline = policy(Profile::Baseline1, &[], &[]);
        let managed = policy(Profile::Managed, &[], &[]);
        let added: Vec<_> =
            allowed(&managed).into_iter().filter(|it| !allowed(&baseline).contains(it)).collect();
        assert_eq!(added, ["guest-shutdown"]);
    }

    #[test]
    fn deny_beats_allow_and_profile() {
        let shutdown = find("guest-shutdown").unwrap();
        let allowed = policy(Profile::Baseline1, &["guest-shutdown"], &[]);
        assert_eq!(allowed.verdict(shutdown), Verdict::Allowed);
        let denied = policy(Profile::Managed, &["guest-shutdown"], &["guest-shutdown"]);
        assert_eq!(denied.verdict(shutdown), Verdict::Refused);
        assert!(denied.refusal(shutdown).contains("`deny`"));
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let mistakes = Policy::new(
            Profile::Baseline1,
            vec!["guest-pong".into()],
            vec!["agent-hello".into(), "guest-from-the-future".into()],
        )
        .unwrap_err();
        assert_eq!(mistakes.len(), 2);
        let policy = policy(Profile::Baseline1, &[], &["guest-from-the-future"]);
        assert_eq!(policy.denied_but_unknown().collect::<Vec<_>>(), ["guest-from-the-future"]);
    }
}
