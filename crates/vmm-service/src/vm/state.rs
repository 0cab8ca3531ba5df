//! What a VM does when something happens: pure, without I/O and without time.
//!
//! [`step`] takes a life and an event and gives the next life, what is to be
//! done, and what became of the operation that was under way. `driver.rs` does
//! it; nothing else changes a state.

use std::time::Duration;

use vmm_api::operation::OperationKind;
use vmm_api::vm::State;

use crate::hypervisor::{Exit, MachineEvent, RunState};

/// Everything about a VM that decides what it does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// What the outside sees.
    pub state: State,
    /// What is under way for the one operation that may be.
    pub goal: Option<Goal>,
    /// Why the state is what it is, where that needs saying.
    pub reason: Option<String>,
    /// What is wrong with it while the state holds.
    pub conditions: Conditions,
}

/// What is wrong with a VM, whatever its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// There is a process that may be it, and nobody can tell: the VM is neither
    /// started nor killed while that is so.
    pub unknown: Option<String>,
    /// The monitor is silent, and why.
    pub monitor: Option<String>,
    /// The keeper is gone.
    pub keeper_lost: bool,
    /// The guest's kernel panicked since its last reset.
    pub panicked: bool,
    /// The guest said that it powers itself off.
    pub powering_off: bool,
}

/// What an operation wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// That it runs.
    Start,
    /// That it is down, by its own doing if it is within the patience.
    Stop(Patience),
    /// That it is down and up again in a new process.
    ColdRestart(Patience),
    /// That the guest boots again in the same process.
    Reboot(Patience),
    /// That its processors stand still.
    Pause,
    /// That they run again.
    Resume,
    /// That it is down, now.
    Kill,
    /// That it is gone.
    Delete,
}

/// How long a guest may take before it is forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `None`: for ever.
    pub deadline: Option<Duration>,
    /// The deadline has passed and force was used.
    pub forced: bool,
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run it.
    Start,
    /// Shut it down; kill it after the deadline if there is one.
    Stop(Option<Duration>),
    /// Boot it again.
    Restart {
        /// In a new process.
        cold: bool,
        /// Force it after so long, if there is a deadline.
        deadline: Option<Duration>,
    },
    /// Stop its processors.
    Pause,
    /// Let them run.
    Resume,
    /// Kill it.
    Kill,
    /// Remove it.
    Delete,
}

/// What happens to a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for something.
    Request(Request),
    /// The machine runs.
    Launched,
    /// The machine was not started, and nothing is left of it.
    LaunchFailed(String),
    /// The machine says something.
    Machine(MachineEvent),
    /// The machine was asked what its processors do.
    Status(RunState),
    /// The patience is at its end.
    Deadline,
    /// The guest could not even be asked to go down.
    AskFailed(String),
    /// An action did not work.
    CouldNot(Action, String),
    /// All of the VM was removed.
    Removed,
    /// Something of it could not be removed.
    RemoveFailed(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the machine; [`Event::Launched`] or [`Event::LaunchFailed`] follows.
    Launch,
    /// Listen to the guest of the machine that was just started.
    Attach,
    /// Ask the guest to power off, after letting its processors run.
    AskPowerOff,
    /// Ask the guest to reboot, after letting its processors run.
    AskReboot,
    /// Send [`Event::Deadline`] after so long.
    SetDeadline(Duration),
    /// Forget the deadline.
    CancelDeadline,
    /// Stop the processors.
    Pause,
    /// Let the processors run.
    Resume,
    /// Press the reset button.
    Reset,
    /// Kill the machine.
    Kill,
    /// Ask the machine what its processors do.
    AskStatus,
    /// The guest's port was opened or closed.
    Port(bool),
    /// The guest starts over: what it said of its last boot is void.
    GuestReset,
    /// Let go of the machine, which is dead, and clear away its run.
    Release,
    /// Remove all of the VM.
    Remove,
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The next life.
    pub life: Life,
    /// What is to be done, in this order.
    pub actions: Vec<Action>,
    /// How the operation that was under way before the event ended, if it did.
    pub ended: Option<Result<(), String>>,
    /// Whether the VM is no more.
    pub gone: bool,
}

/// Why a request is not granted in the state that the VM is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// That state.
    pub state: State,
    /// The sentence.
    pub why: String,
}

/// What becomes of a VM when something happens.
///
/// # Errors
///
/// [`Refusal`] when a request cannot be granted; only requests are refused.
pub fn step(life: &Life, event: &Event) -> Result<Step, Refusal> {
    match event {
        Event::Request(request) => super::request::step(life, *request),
        Event::Launched => Ok(launched(life)),
        Event::LaunchFailed(why) => Ok(launch_failed(life, why)),
        Event::Machine(event) => Ok(machine_said(life, event)),
        Event::Status(RunState::Paused) => Ok(paused(life)),
        Event::Status(RunState::Running) => Ok(resumed(life)),
        Event::Deadline => Ok(deadline(life)),
        Event::AskFailed(why) => Ok(ask_failed(life, why)),
        Event::CouldNot(action, why) => Ok(could_not(life, action, why)),
        Event::Removed => Ok(removed(life)),
        Event::RemoveFailed(why) => Ok(remove_failed(life, why)),
    }
}

impl Life {
    /// A VM in that state with nothing under way.
    pub fn at_rest(state: State, reason: Option<String>) -> Self {
        Self { state, goal: None, reason, conditions: Conditions::default() }
    }

    /// Whether a process of it may be alive.
    pub fn may_be_alive(&self) -> bool {
        self.conditions.unknown.is_some()
            || matches!(
                self.state,
                State::Starting | State::Running | State::Paused | State::Stopping
            )
    }

    /// The sentence beside the state.
    pub fn detail(&self) -> Option<String> {
        let conditions = &self.conditions;
        let unknown = conditions.unknown.as_ref().map(|why| {
            format!(
                "a process that may be this VM could not be identified, so it is left alone: {why}"
            )
        });
        let monitor = conditions.monitor.as_ref().map(|why| {
            format!("its monitor does not answer, so this state is the last that was known: {why}")
        });
        let keeper = conditions
            .keeper_lost
            .then(|| "its keeper is gone: how it ends and its console are not recorded".to_owned());
        let panicked = conditions.panicked.then(|| "the guest's kernel panicked".to_owned());
        let all = [self.reason.clone(), unknown, monitor, keeper, panicked];
        let said: Vec<String> = all.into_iter().flatten().collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

impl Goal {
    /// The operation that has this goal, in the words of the API.
    pub fn kind(self) -> OperationKind {
        match self {
            Self::Start => OperationKind::Start,
            Self::Stop(_) => OperationKind::Stop,
            Self::ColdRestart(_) | Self::Reboot(_) => OperationKind::Restart,
            Self::Pause => OperationKind::Pause,
            Self::Resume => OperationKind::Resume,
            Self::Kill => OperationKind::Kill,
            Self::Delete => OperationKind::Delete,
        }
    }
}

impl Patience {
    /// Patience that has not ended.
    pub fn until(deadline: Option<Duration>) -> Self {
        Self { deadline, forced: false }
    }
}

impl Step {
    /// Nothing happens.
    pub(super) fn stay(life: &Life) -> Self {
        Self { life: life.clone(), actions: Vec::new(), ended: None, gone: false }
    }

    /// The state changes; `reason` says why.
    pub(super) fn to(mut self, state: State, reason: Option<String>) -> Self {
        self.life.state = state;
        self.life.reason = reason;
        self
    }

    pub(super) fn act(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }

    /// The operation under way, if any, ends.
    pub(super) fn end(mut self, outcome: Result<(), String>) -> Self {
        if self.life.goal.take().is_some() {
            self.ended = Some(outcome);
        }
        self
    }
}

/// Asks the guest to go down, and remembers until when.
pub(super) fn ask_down(patience: Patience) -> Vec<Action> {
    let mut actions = vec![Action::CancelDeadline, Action::AskPowerOff];
    actions.extend(patience.deadline.map(Action::SetDeadline));
    actions
}

fn launched(life: &Life) -> Step {
    let stay = Step::stay(life).act([Action::Attach]);
    match life.goal {
        Some(Goal::Stop(patience)) => stay.to(State::Stopping, None).act(ask_down(patience)),
        Some(Goal::Kill) => stay.to(State::Stopping, None).act([Action::Kill]),
        _ => stay.to(State::Running, None).end(Ok(())),
    }
}

fn launch_failed(life: &Life, why: &str) -> Step {
    let wanted_down = matches!(life.goal, Some(Goal::Stop(_) | Goal::Kill));
    let outcome = if wanted_down { Ok(()) } else { Err(why.to_owned()) };
    Step::stay(life).to(State::Failed, Some(format!("it did not start: {why}"))).end(outcome)
}

fn machine_said(life: &Life, event: &MachineEvent) -> Step {
    let mut stay = Step::stay(life);
    let conditions = &mut stay.life.conditions;
    match event {
        MachineEvent::Paused => return paused(life),
        MachineEvent::Resumed => return resumed(life),
        MachineEvent::Reset => return was_reset(life),
        MachineEvent::Exited(exit) => return exited(life, exit),
        MachineEvent::PoweringOff => conditions.powering_off = true,
        MachineEvent::Panicked => conditions.panicked = true,
        MachineEvent::MonitorLost(why) => conditions.monitor = Some(why.clone()),
        MachineEvent::KeeperLost => conditions.keeper_lost = true,
        MachineEvent::KeeperBack => conditions.keeper_lost = false,
        MachineEvent::MonitorBack => {
            conditions.monitor = None;
            return stay.act([Action::AskStatus]);
        }
        MachineEvent::AgentPort(open) => return stay.act([Action::Port(*open)]),
    }
    stay
}

fn paused(life: &Life) -> Step {
    let stay = Step::stay(life);
    match (life.state, life.goal) {
        (State::Running, Some(Goal::Pause)) => stay.to(State::Paused, None).end(Ok(())),
        (State::Running, _) => {
            let why = "its hypervisor stopped it by itself, as it does when a disk fails";
            stay.to(State::Paused, Some(why.to_owned()))
        }
        _ => stay,
    }
}

fn resumed(life: &Life) -> Step {
    let stay = Step::stay(life);
    match (life.state, life.goal) {
        (State::Paused, Some(Goal::Resume)) => stay.to(State::Running, None).end(Ok(())),
        (State::Paused, _) => stay.to(State::Running, None),
        _ => stay,
    }
}

fn was_reset(life: &Life) -> Step {
    let mut stay = Step::stay(life).act([Action::GuestReset]);
    stay.life.conditions.panicked = false;
    stay.life.conditions.powering_off = false;
    match life.goal {
        Some(Goal::Reboot(_)) => stay.act([Action::CancelDeadline]).end(Ok(())),
        _ => stay,
    }
}

fn exited(life: &Life, exit: &Exit) -> Step {
    let mut stay = Step::stay(life).act([Action::CancelDeadline, Action::Release]);
    stay.life.conditions = Conditions::default();
    match (life.state, life.goal) {
        (State::Stopping, Some(Goal::ColdRestart(_))) => {
            stay.to(State::Starting, None).act([Action::Launch])
        }
        (State::Stopping, goal) => stay.to(State::Stopped, stopped_how(goal, exit)).end(Ok(())),
        (State::Running | State::Paused | State::Starting, _) => {
            let (state, reason) = ended_how(&life.conditions, exit);
            let outcome = Err(format!("the VM ended instead: {reason}"));
            stay.to(state, Some(reason)).end(outcome)
        }
        _ => stay,
    }
}

/// How a run ended that was asked to end.
fn stopped_how(goal: Option<Goal>, exit: &Exit) -> Option<String> {
    match (goal, exit) {
        (_, Exit::Status(0)) => None,
        (Some(Goal::Stop(Patience { forced: true, .. })), _) => {
            Some("killed: the guest had not shut down when the deadline passed".to_owned())
        }
        (Some(Goal::Kill) | None, Exit::Signal(_)) => Some("killed".to_owned()),
        (_, exit) => Some(format!("while it was going down {}", describe(exit))),
    }
}

/// How a run ended that nobody asked to end: the guest may power itself off,
/// everything else is a failure.
pub(super) fn ended_how(conditions: &Conditions, exit: &Exit) -> (State, String) {
    match exit {
        Exit::Status(0) if conditions.panicked => {
            (State::Failed, "the guest's kernel panicked".to_owned())
        }
        Exit::Status(0) if conditions.powering_off => {
            (State::Stopped, "the guest powered itself off".to_owned())
        }
        // A keeper that is not its parent cannot see how it ended; the guest
        // had said so itself.
        Exit::Unseen if conditions.powering_off && !conditions.panicked => {
            (State::Stopped, "the guest powered itself off".to_owned())
        }
        Exit::Status(0) => (State::Stopped, "the machine ended by itself".to_owned()),
        exit => (State::Failed, describe(exit)),
    }
}

fn describe(exit: &Exit) -> String {
    match exit {
        Exit::Status(status) => format!("its hypervisor ended with status {status}"),
        Exit::Signal(signal) => format!("its hypervisor was ended by signal {signal}"),
        Exit::Unseen => "its hypervisor is gone and nobody saw how it ended".to_owned(),
    }
}

fn deadline(life: &Life) -> Step {
    let mut stay = Step::stay(life);
    match (life.state, &mut stay.life.goal) {
        (State::Stopping, Some(Goal::Stop(patience) | Goal::ColdRestart(patience))) => {
            patience.forced = true;
            stay.act([Action::Kill])
        }
        (State::Running | State::Paused, Some(Goal::Reboot(patience))) => {
            patience.forced = true;
            stay.act([Action::Reset])
        }
        _ => stay,
    }
}

/// With a deadline there is still something to wait for; without one, waiting
/// would never end.
fn ask_failed(life: &Life, why: &str) -> Step {
    let stay = Step::stay(life);
    match (life.state, life.goal) {
        (State::Stopping, Some(Goal::Stop(patience) | Goal::ColdRestart(patience)))
            if patience.deadline.is_none() =>
        {
            stay.to(State::Running, None).act([Action::AskStatus]).end(Err(why.to_owned()))
        }
        (_, Some(Goal::Reboot(patience))) if patience.deadline.is_none() => {
            stay.end(Err(why.to_owned()))
        }
        _ => stay,
    }
}

fn could_not(life: &Life, action: &Action, why: &str) -> Step {
    let stay = Step::stay(life);
    match (action, life.goal) {
        (Action::Pause, Some(Goal::Pause)) | (Action::Resume, Some(Goal::Resume)) => {
            stay.end(Err(why.to_owned()))
        }
        (Action::Reset, Some(Goal::Reboot(_))) => stay.end(Err(why.to_owned())),
        (Action::Kill, Some(_)) if life.state == State::Stopping => {
            let reason = format!("it could not be killed: {why}");
            stay.to(State::Stopping, Some(reason.clone())).end(Err(reason))
        }
        _ => stay,
    }
}

fn removed(life: &Life) -> Step {
    let gone = life.state == State::Deleting;
    Step { gone, ..Step::stay(life).end(Ok(())) }
}

fn remove_failed(life: &Life, why: &str) -> Step {
    if life.state != State::Deleting {
        return Step::stay(life);
    }
    let reason = format!("it could not be deleted: {why}");
    Step::stay(life).to(State::Failed, Some(reason.clone())).end(Err(reason))
}
