//! What is under way when something is killed: every operation that an operator
//! can ask for, and the daemon's own start.

use vmm_api::client::{Client, Error};
use vmm_api::operation::Operation;
use vmm_api::vm::{RestartRequest, State, StopRequest};

/// How long a guest may take to obey, in seconds: the shortest there is. Most
/// of the guests here never do.
const PATIENCE: u32 = 1;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A VM is made.
    Create,
    /// A VM is started.
    Start,
    /// A VM is asked to go down, and killed when it does not.
    Stop,
    /// A guest is asked to boot again, and reset when it does not.
    Restart,
    /// A VM is stopped and started.
    ColdRestart,
    /// A VM's processors are stopped.
    Pause,
    /// They run again.
    Resume,
    /// A VM is killed, by its operator.
    Kill,
    /// A VM is removed.
    Delete,
    /// The daemon starts and takes its VMs back.
    Recover,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::ColdRestart,
        Self::Pause,
        Self::Resume,
        Self::Kill,
        Self::Delete,
        Self::Recover,
    ];

    /// What the rounds with it are counted as.
    pub fn counted(self) -> &'static str {
        match self {
            Self::Create => "rounds of create",
            Self::Start => "rounds of start",
            Self::Stop => "rounds of stop",
            Self::Restart => "rounds of restart, warm",
            Self::ColdRestart => "rounds of restart, cold",
            Self::Pause => "rounds of pause",
            Self::Resume => "rounds of resume",
            Self::Kill => "rounds of kill",
            Self::Delete => "rounds of delete",
            Self::Recover => "rounds of the daemon's start",
        }
    }

    /// The state that a VM must be in for it: running, paused or down. `None`
    /// where it begins without a VM.
    pub fn needs(self) -> Option<Needs> {
        match self {
            Self::Create | Self::Recover => None,
            Self::Start | Self::Delete => Some(Needs::Down),
            Self::Resume => Some(Needs::Paused),
            Self::Stop | Self::Restart | Self::ColdRestart | Self::Pause | Self::Kill => {
                Some(Needs::Running)
            }
        }
    }

    /// The state that a VM is in when it has succeeded. `None` where there is
    /// no VM then, or no one VM.
    pub fn leads_to(self) -> Option<State> {
        match self {
            Self::Create => Some(State::Created),
            Self::Start | Self::Restart | Self::ColdRestart | Self::Resume => Some(State::Running),
            Self::Stop | Self::Kill => Some(State::Stopped),
            Self::Pause => Some(State::Paused),
            Self::Delete | Self::Recover => None,
        }
    }

    /// Whether a process runs the VM at some moment of it, to be killed.
    pub fn has_machine(self) -> bool {
        !matches!(self, Self::Create | Self::Delete | Self::Recover)
    }

    /// Asks for it. Not for those that begin without a VM.
    pub async fn ask(self, client: &Client, vm: &str) -> Result<Operation, Error> {
        let force_after_s = Some(PATIENCE);
        match self {
            Self::Start => client.start(vm).await,
            Self::Stop => client.stop(vm, &StopRequest { force_after_s }).await,
            Self::Restart | Self::ColdRestart => {
                let cold = self == Self::ColdRestart;
                client.restart(vm, &RestartRequest { cold, force_after_s }).await
            }
            Self::Pause => client.pause(vm).await,
            Self::Resume => client.resume(vm).await,
            Self::Kill => client.kill(vm).await,
            Self::Delete => client.delete(vm).await,
            Self::Create | Self::Recover => {
                Err(Error::Protocol("this is not asked of a VM".to_owned()))
            }
        }
    }
}

/// What a VM must be for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Created, stopped or failed.
    Down,
    /// Running.
    Running,
    /// Paused.
    Paused,
}

impl Needs {
    /// Whether a state will do.
    pub fn is_met_by(self, state: State) -> bool {
        match self {
            Self::Down => is_down(state),
            Self::Running => state == State::Running,
            Self::Paused => state == State::Paused,
        }
    }
}

/// Whether nothing runs a VM in that state.
pub fn is_down(state: State) -> bool {
    matches!(state, State::Created | State::Stopped | State::Failed)
}
