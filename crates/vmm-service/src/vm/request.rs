//! Which request is granted in which state, and what a granted one sets going.
//! Apart from `state.rs` because it is what an operator looks up: every pair of
//! request and state has its answer here.

use vmm_api::vm::State;

use super::state::{Action, Conditions, Goal, Life, Patience, Refusal, Request, Step, ask_down};

/// Grants a request or says why not.
pub fn step(life: &Life, request: Request) -> Result<Step, Refusal> {
    if let Some(why) = &life.conditions.unknown {
        return Err(refuse(life, format!("its process could not be identified: {why}")));
    }
    match request {
        Request::Start => start(life),
        Request::Stop(deadline) => stop(life, Patience::until(deadline)),
        Request::Restart { cold, deadline } => restart(life, cold, Patience::until(deadline)),
        Request::Pause => pause(life),
        Request::Resume => resume(life),
        Request::Kill => kill(life),
        Request::Delete => delete(life),
    }
}

fn start(life: &Life) -> Result<Step, Refusal> {
    match life.state {
        State::Created | State::Stopped | State::Failed => {
            let mut step = begin(life, Goal::Start).to(State::Starting, None);
            step.life.conditions = Conditions::default();
            Ok(step.act([Action::Launch]))
        }
        State::Running | State::Starting => Err(already(life)),
        State::Paused => Err(refuse(life, "it is paused: resume it".to_owned())),
        State::Stopping | State::Deleting => Err(busy(life)),
    }
}

fn stop(life: &Life, patience: Patience) -> Result<Step, Refusal> {
    match (life.state, life.goal) {
        (State::Running | State::Paused, _) => {
            Ok(begin(life, Goal::Stop(patience)).to(State::Stopping, None).act(ask_down(patience)))
        }
        (State::Starting, Some(Goal::Kill)) | (State::Stopping, Some(Goal::Kill)) => {
            Err(refuse(life, "it is being killed".to_owned()))
        }
        // Done as soon as there is somebody to ask.
        (State::Starting, _) => Ok(begin(life, Goal::Stop(patience))),
        // Another deadline for the same wish.
        (State::Stopping, _) => Ok(begin(life, Goal::Stop(patience)).act(ask_down(patience))),
        (State::Created | State::Stopped | State::Failed, _) => Err(not_running(life)),
        (State::Deleting, _) => Err(busy(life)),
    }
}

fn restart(life: &Life, cold: bool, patience: Patience) -> Result<Step, Refusal> {
    match life.state {
        State::Running | State::Paused if life.goal.is_some() => Err(busy(life)),
        State::Running | State::Paused if cold => Ok(begin(life, Goal::ColdRestart(patience))
            .to(State::Stopping, None)
            .act(ask_down(patience))),
        State::Running | State::Paused => {
            let mut step = begin(life, Goal::Reboot(patience)).act([Action::AskReboot]);
            step.actions.extend(patience.deadline.map(Action::SetDeadline));
            Ok(step)
        }
        State::Created | State::Stopped | State::Failed => {
            Err(refuse(life, "it does not run: start it".to_owned()))
        }
        State::Starting | State::Stopping | State::Deleting => Err(busy(life)),
    }
}

fn pause(life: &Life) -> Result<Step, Refusal> {
    match life.state {
        State::Running if life.goal.is_some() => Err(busy(life)),
        State::Running => Ok(begin(life, Goal::Pause).act([Action::Pause])),
        State::Paused => Err(already(life)),
        State::Created | State::Stopped | State::Failed => Err(not_running(life)),
        State::Starting | State::Stopping | State::Deleting => Err(busy(life)),
    }
}

fn resume(life: &Life) -> Result<Step, Refusal> {
    match life.state {
        State::Paused if life.goal.is_some() => Err(busy(life)),
        State::Paused => Ok(begin(life, Goal::Resume).act([Action::Resume])),
        State::Running => Err(already(life)),
        State::Created | State::Stopped | State::Failed => Err(not_running(life)),
        State::Starting | State::Stopping | State::Deleting => Err(busy(life)),
    }
}

fn kill(life: &Life) -> Result<Step, Refusal> {
    match life.state {
        State::Running | State::Paused | State::Stopping => Ok(begin(life, Goal::Kill)
            .to(State::Stopping, None)
            .act([Action::CancelDeadline, Action::Kill])),
        // Done as soon as there is something to kill.
        State::Starting => Ok(begin(life, Goal::Kill)),
        State::Created | State::Stopped | State::Failed => Err(not_running(life)),
        State::Deleting => Err(busy(life)),
    }
}

fn delete(life: &Life) -> Result<Step, Refusal> {
    match life.state {
        State::Created | State::Stopped | State::Failed => {
            Ok(begin(life, Goal::Delete).to(State::Deleting, None).act([Action::Remove]))
        }
        State::Deleting => Err(already(life)),
        State::Running | State::Paused | State::Starting => {
            Err(refuse(life, format!("it is {}: stop or kill it first", life.state)))
        }
        State::Stopping => Err(busy(life)),
    }
}

/// What was under way is overtaken by the new goal.
fn begin(life: &Life, goal: Goal) -> Step {
    let overtaken = Err(format!("overtaken by a later {}", goal.kind()));
    let mut step = Step::stay(life).end(overtaken);
    step.life.goal = Some(goal);
    step
}

fn refuse(life: &Life, why: String) -> Refusal {
    Refusal { state: life.state, why }
}

fn already(life: &Life) -> Refusal {
    refuse(life, format!("it is {} already", life.state))
}

fn not_running(life: &Life) -> Refusal {
    refuse(life, format!("it does not run: it is {}", life.state))
}

fn busy(life: &Life) -> Refusal {
    let what = match life.goal {
        Some(goal) => format!("a {} is under way", goal.kind()),
        None => format!("it is {}", life.state),
    };
    refuse(life, format!("{what}: wait for its end"))
}
