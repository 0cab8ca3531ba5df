//! What a driver sets going and does not wait for: each of these comes back to
//! it as a [`Done`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;
use vmm_api::guest::AgentState;
use vmm_api::vm::State;

use super::adopt::Found;
use super::state::{Action, Event};
use super::{Shared, chain};
use crate::guest::hub::{CommandError, Hub};
use crate::hypervisor::{
    Adoption, Hypervisor, Launch, Machine, MachineError, MachineEvent, RunState, Running,
    StartError,
};

/// How long writing a request to the guest may take. Its socket is read by
/// QEMU, so this passes only when QEMU or the guest's port is stuck.
const ASK_GUEST: Duration = Duration::from_secs(5);

/// What came of it.
pub enum Done {
    /// A machine was started, or was not.
    Launched(Result<Running, StartError>),
    /// Something was asked for in that turn of the driver, and this follows.
    Asked {
        /// Which turn.
        turn: u64,
        /// What follows.
        event: Event,
    },
    /// A machine that could not be identified was looked at again.
    LookedAt(Found, Option<Running>),
    /// It was done, and nothing follows but what the machine says itself.
    Nothing,
}

/// Starts a machine.
pub fn launch(shared: &Arc<Shared>, launch: Launch) -> BoxFuture<'static, Done> {
    let hypervisor = Arc::clone(&shared.hypervisor);
    async move { Done::Launched(hypervisor.start(&launch).await) }.boxed()
}

/// Removes all that the hypervisor has of a VM.
pub fn remove(shared: &Arc<Shared>, vm: Uuid, turn: u64) -> BoxFuture<'static, Done> {
    let hypervisor = Arc::clone(&shared.hypervisor);
    async move {
        let event = match hypervisor.purge(vm).await {
            Ok(()) => Event::Removed,
            Err(error) => Event::RemoveFailed(chain(&error)),
        };
        Done::Asked { turn, event }
    }
    .boxed()
}

/// Looks for a machine.
pub fn look_again(
    hypervisor: Arc<dyn Hypervisor>,
    vm: Uuid,
    state: State,
) -> BoxFuture<'static, Done> {
    async move {
        let (found, running) = look(hypervisor.as_ref(), vm, state).await;
        Done::LookedAt(found, running)
    }
    .boxed()
}

/// Looks for the machine of a VM whose last known state was `state`: what was
/// found, with the machine if there is one. One that was starting may have been
/// left before its first instruction: its start was acknowledged, so it goes on.
pub async fn look(hypervisor: &dyn Hypervisor, vm: Uuid, state: State) -> (Found, Option<Running>) {
    match hypervisor.adopt(vm).await {
        Adoption::Running(running, RunState::Paused) if state == State::Starting => {
            let run = match running.machine.resume().await {
                Ok(()) => RunState::Running,
                Err(error) => {
                    tracing::warn!(%vm, error = chain(&error), "A machine that was starting could not be let run.");
                    RunState::Paused
                }
            };
            (Found::Running(run), Some(running))
        }
        Adoption::Running(running, run) => (Found::Running(run), Some(running)),
        Adoption::Gone(exit) => (Found::Gone(exit), None),
        Adoption::Unknown(why) => (Found::Unknown(why), None),
    }
}

/// Has a machine, or its guest, do what an action says.
pub fn ask(
    machine: Arc<dyn Machine>,
    hub: Hub,
    vm: Uuid,
    turn: u64,
    action: Action,
) -> BoxFuture<'static, Done> {
    async move {
        let event = match &action {
            Action::AskPowerOff => power_off(machine.as_ref(), &hub, vm).await,
            Action::AskReboot => reboot(machine.as_ref(), &hub, vm).await,
            Action::AskStatus => machine.status().await.ok().map(Event::Status),
            Action::Pause => follow(&action, machine.pause().await, Some(MachineEvent::Paused)),
            Action::Resume => follow(&action, machine.resume().await, Some(MachineEvent::Resumed)),
            Action::Reset => follow(&action, machine.reset().await, None),
            _ => follow(&action, machine.kill().await, None),
        };
        event.map_or(Done::Nothing, |event| Done::Asked { turn, event })
    }
    .boxed()
}

/// A machine that is gone says so by itself: that is no failure of the action.
fn follow(
    action: &Action,
    outcome: Result<(), MachineError>,
    then: Option<MachineEvent>,
) -> Option<Event> {
    match outcome {
        Ok(()) => then.map(Event::Machine),
        Err(MachineError::Gone) => None,
        Err(error) => Some(Event::CouldNot(action.clone(), chain(&error))),
    }
}

/// The agent first, if it is there and allowed to; then the power button.
async fn power_off(machine: &dyn Machine, hub: &Hub, vm: Uuid) -> Option<Event> {
    // A guest that stands still can do nothing. Whether it does is asked by
    // letting it run, which changes nothing for one that runs.
    if let Err(error) = machine.resume().await {
        return Some(Event::AskFailed(chain(&error)));
    }
    if ask_agent(hub, vm, "powerdown").await.is_ok() {
        return None;
    }
    let pressed = machine.press_power_button().await;
    pressed.err().map(|error| Event::AskFailed(chain(&error)))
}

/// Only the agent can reboot a guest gently: the power button powers it off.
async fn reboot(machine: &dyn Machine, hub: &Hub, vm: Uuid) -> Option<Event> {
    if let Err(error) = machine.resume().await {
        return Some(Event::AskFailed(chain(&error)));
    }
    let asked = ask_agent(hub, vm, "reboot").await;
    asked.err().map(|error| Event::AskFailed(format!("the guest could not be asked: {error}")))
}

async fn ask_agent(hub: &Hub, vm: Uuid, mode: &str) -> Result<(), CommandError> {
    const SHUTDOWN: &str = "guest-shutdown";
    let guest = hub.guest(vm);
    if guest.summary.agent != AgentState::Connected {
        return Err(CommandError::NotConnected);
    }
    if !guest.capabilities.iter().any(|name| name == SHUTDOWN) {
        return Err(CommandError::NotAllowed(SHUTDOWN.to_owned()));
    }
    hub.shutdown(vm, mode, ASK_GUEST).await
}
