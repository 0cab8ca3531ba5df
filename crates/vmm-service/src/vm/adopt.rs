//! What a VM is after the daemon was away: pure. The hypervisor says what it
//! found, the store what was last written down.

use vmm_api::operation::OperationKind;
use vmm_api::vm::State;

use super::state::{Action, Conditions, Goal, Life, ended_how};
use crate::hypervisor::{Exit, RunState};

/// What was found of a VM's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Running(RunState),
    /// It does not run; how it ended, where a trace is left.
    Gone(Option<Exit>),
    /// It does not run, for the host was restarted while it did.
    HostRestarted,
    /// Nobody can tell.
    Unknown(String),
}

/// The life that follows from what was written down and what was found, and
/// what is to be done about it.
pub fn adopted(stored: &Life, found: &Found) -> (Life, Vec<Action>) {
    match found {
        Found::Running(run) => {
            let state = match run {
                RunState::Running => State::Running,
                RunState::Paused => State::Paused,
            };
            let reason = (stored.state == State::Stopping)
                .then(|| "the daemon was restarted while it was going down: ask again".to_owned());
            (Life::at_rest(state, reason), vec![Action::Attach])
        }
        Found::Unknown(why) => {
            let conditions = Conditions { unknown: Some(why.clone()), ..Conditions::default() };
            (Life { goal: None, conditions, ..stored.clone() }, Vec::new())
        }
        Found::HostRestarted => host_restarted(stored),
        Found::Gone(exit) => gone(stored, exit.as_ref()),
    }
}

/// What an operation came to that was under way when the VM was lost sight of
/// in the state `before`, in the light of the life that was found. `meanwhile`
/// says why it was.
pub fn outcome(
    kind: OperationKind,
    before: State,
    life: &Life,
    meanwhile: &str,
) -> Result<(), String> {
    let reached = match kind {
        OperationKind::Stop | OperationKind::Kill => life.state == State::Stopped,
        OperationKind::Pause => life.state == State::Paused,
        OperationKind::Start | OperationKind::Resume => life.state == State::Running,
        // A cold one that had come to its start, which is its last part.
        OperationKind::Restart => before == State::Starting && life.state == State::Running,
        OperationKind::Delete => false,
    };
    if reached && life.conditions.unknown.is_none() {
        return Ok(());
    }
    Err(format!("{meanwhile} meanwhile; the VM is {}", life.state))
}

/// A restart of the host is no fault of the VM.
fn host_restarted(stored: &Life) -> (Life, Vec<Action>) {
    let what = match stored.state {
        State::Running => "ran",
        State::Paused => "was paused",
        State::Starting => "was starting",
        State::Stopping => "was going down",
        State::Created | State::Stopped | State::Failed | State::Deleting => {
            return gone(stored, Some(&Exit::Unseen));
        }
    };
    let reason = format!("the host was restarted while it {what}");
    (Life::at_rest(State::Stopped, Some(reason)), vec![Action::Release])
}

fn gone(stored: &Life, exit: Option<&Exit>) -> (Life, Vec<Action>) {
    let rest = |state, reason: &str| Life::at_rest(state, Some(reason.to_owned()));
    let release = vec![Action::Release];
    match stored.state {
        State::Created | State::Stopped | State::Failed => {
            let life = Life::at_rest(stored.state, stored.reason.clone());
            // Its end was written down, and its run not yet cleared away.
            (life, if exit.is_some() { release } else { Vec::new() })
        }
        State::Deleting => {
            let life = Life { goal: Some(Goal::Delete), ..Life::at_rest(State::Deleting, None) };
            (life, vec![Action::Remove])
        }
        State::Stopping => {
            (rest(State::Stopped, "it went down while the daemon was away"), release)
        }
        // It had started, and nobody could write that down.
        State::Starting if exit.is_some_and(|exit| *exit != Exit::Unseen) => {
            gone(&Life::at_rest(State::Running, None), exit)
        }
        State::Starting => {
            (rest(State::Failed, "the daemon went down while it was starting"), release)
        }
        State::Running | State::Paused => {
            let (state, how) = match exit {
                // Whether the guest said that it powers off was not heard.
                Some(exit) => ended_how(&Conditions::default(), exit),
                None => (State::Failed, "no trace of its run is left".to_owned()),
            };
            (rest(state, &format!("while the daemon was away: {how}")), release)
        }
    }
}
