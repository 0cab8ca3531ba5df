//! The state machine under every order of events.

use std::time::Duration;

use proptest::prelude::*;
use vmm_api::vm::State;

use super::state::{Action, Event, Goal, Life, Request, Step, step};
use crate::hypervisor::{Exit, MachineEvent, RunState};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn request() -> impl Strategy<Value = Request> {
    let deadline = prop_oneof![Just(None), Just(SECOND)];
    prop_oneof![
        Just(Request::Start),
        deadline.clone().prop_map(Request::Stop),
        (any::<bool>(), deadline).prop_map(|(cold, deadline)| Request::Restart { cold, deadline }),
        Just(Request::Pause),
        Just(Request::Resume),
        Just(Request::Kill),
        Just(Request::Delete),
    ]
}

fn machine_event() -> impl Strategy<Value = MachineEvent> {
    prop_oneof![
        Just(MachineEvent::Paused),
        Just(MachineEvent::Resumed),
        Just(MachineEvent::Reset),
        Just(MachineEvent::PoweringOff),
        Just(MachineEvent::Panicked),
        any::<bool>().prop_map(MachineEvent::AgentPort),
        Just(MachineEvent::MonitorLost("why".to_owned())),
        Just(MachineEvent::MonitorBack),
        Just(MachineEvent::KeeperLost),
        Just(MachineEvent::KeeperBack),
        exit().prop_map(MachineEvent::Exited),
    ]
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![
        Just(Exit::Status(0)),
        Just(Exit::Status(1)),
        Just(Exit::Signal(9)),
        Just(Exit::Unseen),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let action = prop_oneof![
        Just(Action::Pause),
        Just(Action::Resume),
        Just(Action::Reset),
        Just(Action::Kill),
    ];
    prop_oneof![
        4 => request().prop_map(Event::Request),
        4 => machine_event().prop_map(Event::Machine),
        3 => Just(Event::Launched),
        1 => Just(Event::LaunchFailed("why".to_owned())),
        1 => Just(Event::Status(RunState::Running)),
        1 => Just(Event::Status(RunState::Paused)),
        1 => Just(Event::Deadline),
        1 => Just(Event::AskFailed("why".to_owned())),
        1 => action.prop_map(|action| Event::CouldNot(action, "why".to_owned())),
        1 => Just(Event::Removed),
        1 => Just(Event::RemoveFailed("why".to_owned())),
    ]
}

/// The world beside the VM, as far as the state machine must respect it.
#[derive(Default)]
struct World {
    launching: bool,
    machine: bool,
    removing: bool,
    operation: bool,
}

impl World {
    /// Whether the event can happen in this world.
    fn allows(&self, event: &Event) -> bool {
        match event {
            Event::Launched | Event::LaunchFailed(_) => self.launching,
            Event::Machine(_) | Event::Status(_) => self.machine,
            Event::Removed | Event::RemoveFailed(_) => self.removing,
            _ => true,
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Launched => (self.launching, self.machine) = (false, true),
            Event::LaunchFailed(_) => self.launching = false,
            Event::Machine(MachineEvent::Exited(_)) => self.machine = false,
            Event::Removed | Event::RemoveFailed(_) => self.removing = false,
            _ => {}
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Launch => {
                assert!(!self.launching && !self.machine, "never two machines of one VM");
                self.launching = true;
            }
            Action::Remove => {
                assert!(!self.launching && !self.machine, "what may be alive is not removed");
                self.removing = true;
            }
            Action::AskPowerOff
            | Action::AskReboot
            | Action::Pause
            | Action::Resume
            | Action::Reset
            | Action::Kill
            | Action::AskStatus
            | Action::Attach => assert!(self.machine, "{action:?} needs a machine"),
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn nothing_impossible_is_ever_done(events in prop::collection::vec(event(), 1..60)) {
        let mut life = Life::at_rest(State::Created, None);
        let mut world = World::default();
        for event in events {
            if !world.allows(&event) {
                continue;
            }
            let next = match step(&life, &event) {
                Ok(next) => next,
                Err(refusal) => {
                    prop_assert!(matches!(event, Event::Request(_)), "only requests are refused");
                    prop_assert!(!refusal.why.is_empty());
                    prop_assert_eq!(refusal.state, life.state);
                    continue;
                }
            };
            let had_operation = world.operation;
            world.happens(&event);
            next.actions.iter().for_each(|action| world.act(action));
            if next.ended.is_some() {
                prop_assert!(had_operation, "only what was begun ends");
            }
            world.operation = next.life.goal.is_some();
            if let Event::Request(_) = event {
                prop_assert!(next.life.goal.is_some(), "a granted request has a goal");
                prop_assert_eq!(next.ended.is_some(), had_operation, "what is overtaken ends");
            } else if had_operation && next.life.goal.is_none() {
                prop_assert!(next.ended.is_some(), "no operation is forgotten");
            }
            if next.gone {
                prop_assert_eq!(life.state, State::Deleting);
                return Ok(());
            }
            life = next.life;
            let alive = world.machine || world.launching;
            prop_assert_eq!(life.may_be_alive(), alive, "{:?} after {:?}", life, event);
            if life.state == State::Failed {
                prop_assert!(life.reason.is_some(), "failed has a reason");
            }
        }
    }

    #[test]
    fn an_exit_leads_to_rest_from_everywhere(events in prop::collection::vec(event(), 1..40), exit in exit()) {
        let mut life = Life::at_rest(State::Created, None);
        let mut world = World::default();
        for event in events {
            if !world.allows(&event) { continue; }
            if let Ok(next) = step(&life, &event) {
                world.happens(&event);
                next.actions.iter().for_each(|action| world.act(action));
                life = next.life;
            }
        }
        if world.machine {
            let before = life.clone();
            let next = step(&life, &Event::Machine(MachineEvent::Exited(exit))).unwrap();
            let cold = matches!(before.goal, Some(Goal::ColdRestart(_)));
            let rest = matches!(next.life.state, State::Stopped | State::Failed);
            prop_assert!(rest || (cold && next.life.state == State::Starting));
            prop_assert!(next.actions.contains(&Action::Release));
        }
    }
}

fn life(state: State) -> Life {
    Life::at_rest(state, None)
}

fn after(life: &Life, event: &Event) -> Step {
    step(life, event).unwrap()
}

#[test]
fn every_request_has_its_answer_in_every_state() {
    let requests = [
        Request::Start,
        Request::Stop(SECOND),
        Request::Restart { cold: false, deadline: SECOND },
        Request::Restart { cold: true, deadline: SECOND },
        Request::Pause,
        Request::Resume,
        Request::Kill,
        Request::Delete,
    ];
    let granted: Vec<String> = State::ALL
        .into_iter()
        .map(|state| {
            let row: String = requests
                .iter()
                .map(|request| match step(&life(state), &Event::Request(*request)) {
                    Ok(_) => 'y',
                    Err(_) => '-',
                })
                .collect();
            format!("{state:<8} {row}")
        })
        .collect();
    assert_eq!(
        granted,
        [
            // start stop restart cold pause resume kill delete
            "created  y------y",
            "starting -y----y-",
            "running  -yyyy-y-",
            "paused   -yyy-yy-",
            "stopping -y----y-",
            "stopped  y------y",
            "failed   y------y",
            "deleting --------",
        ]
    );
}

#[test]
fn a_stop_before_the_machine_is_up_is_done_once_it_is() {
    let starting = after(&life(State::Created), &Event::Request(Request::Start)).life;
    let next = after(&starting, &Event::Request(Request::Stop(SECOND)));
    assert_eq!((next.life.state, next.actions.len()), (State::Starting, 0));
    assert_eq!(next.ended, Some(Err("overtaken by a later stop".to_owned())));
    let next = after(&next.life, &Event::Launched);
    assert_eq!(next.life.state, State::Stopping);
    assert!(next.actions.contains(&Action::AskPowerOff));
    let killed = after(&starting, &Event::Request(Request::Kill));
    assert!(after(&killed.life, &Event::Launched).actions.contains(&Action::Kill));
}

#[test]
fn a_guest_that_cannot_be_asked_goes_on_when_there_is_no_deadline() {
    let stopping = after(&life(State::Running), &Event::Request(Request::Stop(None))).life;
    let next = after(&stopping, &Event::AskFailed("why".to_owned()));
    assert_eq!((next.life.state, next.ended), (State::Running, Some(Err("why".to_owned()))));
    let stopping = after(&life(State::Running), &Event::Request(Request::Stop(SECOND))).life;
    let next = after(&stopping, &Event::AskFailed("why".to_owned()));
    assert_eq!((next.life.state, next.ended), (State::Stopping, None));
}

#[test]
fn how_a_run_ended_is_told() {
    let mut running = life(State::Running);
    let exited = |life: &Life, exit| {
        let life = after(life, &Event::Machine(MachineEvent::Exited(exit))).life;
        (life.state, life.reason.unwrap())
    };
    let told = exited(&running, Exit::Status(0));
    assert_eq!(told, (State::Stopped, "the machine ended by itself".to_owned()));
    let told = exited(&running, Exit::Signal(11));
    assert_eq!(told, (State::Failed, "its hypervisor was ended by signal 11".to_owned()));
    running.conditions.powering_off = true;
    let told = exited(&running, Exit::Status(0));
    assert_eq!(told, (State::Stopped, "the guest powered itself off".to_owned()));
    running.conditions.panicked = true;
    assert_eq!(exited(&running, Exit::Status(0)).0, State::Failed);
}

/// A keeper that took over is not QEMU's parent, and cannot see how it ended.
#[test]
fn a_guest_that_said_that_it_powers_itself_off_has_stopped_though_nobody_saw_it() {
    let running = Life::at_rest(State::Running, None);
    let said = Event::Machine(MachineEvent::PoweringOff);
    let powering_off = step(&running, &said).unwrap().life;
    let exited = Event::Machine(MachineEvent::Exited(Exit::Unseen));
    assert_eq!(step(&powering_off, &exited).unwrap().life.state, State::Stopped);
    assert_eq!(step(&running, &exited).unwrap().life.state, State::Failed);
}
