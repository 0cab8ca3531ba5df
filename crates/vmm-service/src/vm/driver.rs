//! One task for each VM: the only place that changes a VM's state.
//!
//! Requests, the machine's events and timers enter one queue; each is decided
//! by `state.rs`, written down, told, and only then carried out. What takes
//! time runs beside the queue and comes back as an event, so that a machine
//! that answers slowly still can be killed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmm_api::event::EventKind;
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::{State, VmPatch, VmSpec};

use super::adopt::{self, Found};
use super::state::{Action, Event, Life, Request, Step, step};
use super::work::{self, Done};
use super::{RequestError, Shared, chain};
use crate::hypervisor::{Launch, Machine, MachineEvent, Running, StartError};
use crate::store::{StateChange, VmRecord};

/// How many requests may wait for one VM. Each is answered within moments, so
/// a full queue means a flood or a disk that stands still.
pub const QUEUE: usize = 16;

/// How soon a state that the disk did not take is written again.
const RETRY: Duration = Duration::from_secs(5);

/// How soon a process that could not be identified is looked at again, at first
/// and at most: mostly it is a start that a killed daemon left behind, and that
/// takes moments.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long an operation may wait for its VM to be identified: longer than a
/// keeper may take to start a machine. Then it has failed, and says why.
const LONGEST_DOUBT: Duration = Duration::from_secs(40);

/// What is asked of a VM's driver, and where its answer goes.
pub enum Command {
    /// Something that takes time.
    Act(Request, oneshot::Sender<Result<Operation, RequestError>>),
    /// Another specification.
    Change(VmPatch, oneshot::Sender<Result<(), RequestError>>),
}

/// A VM as others see it.
#[derive(Clone, Debug)]
pub struct View {
    /// Its identity.
    pub id: Uuid,
    /// What was asked for.
    pub spec: Arc<VmSpec>,
    /// Its state.
    pub state: State,
    /// Why, and what is wrong with it.
    pub detail: Option<String>,
    /// The hypervisor's process.
    pub pid: Option<u32>,
    /// By the host's clock.
    pub created_at: Timestamp,
    /// By the host's clock.
    pub state_changed_at: Timestamp,
    /// The operation that ended or began last in this run of the daemon.
    pub operation: Option<Uuid>,
}

/// How a driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The VM is no more.
    Deleted,
    /// The daemon goes down; the VM goes on.
    Detached,
}

/// The owner of one VM.
pub struct Driver {
    shared: Arc<Shared>,
    id: Uuid,
    spec: Arc<VmSpec>,
    machine_type: String,
    life: Life,
    operation: Option<Operation>,
    machine: Option<Arc<dyn Machine>>,
    machine_events: Option<mpsc::Receiver<MachineEvent>>,
    works: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Counts the goals: what an earlier goal set going is no longer news.
    turn: u64,
    deadline: Option<Instant>,
    unsaved: Option<(StateChange, Instant)>,
    /// The trace of a run whose end is not written down yet stays: a daemon
    /// that comes next has nothing else to tell it by.
    clear_when_saved: bool,
    doubt: Option<Doubt>,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    deleted: bool,
}

/// There is something that may be the VM, and cannot be identified.
struct Doubt {
    since: Instant,
    /// When to look again, unless somebody looks.
    look_again: Option<Instant>,
    /// How long the pause before was.
    pause: Duration,
}

enum Input {
    Command(Command),
    Machine(Option<MachineEvent>),
    Work(Done),
    Deadline,
    Retry,
    LookAgain,
    GoDown,
}

impl Driver {
    /// A driver for a VM as it was written down, which has no machine yet.
    pub fn new(
        shared: Arc<Shared>,
        record: VmRecord,
    ) -> (Self, mpsc::Sender<Command>, watch::Receiver<View>) {
        let (queue, commands) = mpsc::channel(QUEUE);
        let spec = Arc::new(record.spec);
        let (view, seen) = watch::channel(View {
            id: record.id,
            spec: Arc::clone(&spec),
            state: record.state,
            detail: record.state_detail.clone(),
            pid: None,
            created_at: record.created_at,
            state_changed_at: record.state_changed_at,
            operation: None,
        });
        let driver = Self {
            shared,
            id: record.id,
            spec,
            machine_type: record.machine_type,
            life: Life::at_rest(record.state, record.state_detail),
            operation: None,
            machine: None,
            machine_events: None,
            works: FuturesUnordered::new(),
            turn: 0,
            deadline: None,
            unsaved: None,
            clear_when_saved: false,
            doubt: None,
            commands,
            view,
            deleted: false,
        };
        (driver, queue, seen)
    }

    /// Takes over what was found of the VM's machine and ends the operations
    /// that were under way, truthfully; `meanwhile` says what came between.
    pub async fn adopt(
        &mut self,
        found: &Found,
        running: Option<Running>,
        unfinished: Vec<Operation>,
        meanwhile: &str,
    ) {
        let (life, actions) = adopt::adopted(&self.life, found);
        self.doubt = life.conditions.unknown.is_some().then(|| Doubt::again(self.doubt.as_ref()));
        let open = self.doubt.as_ref().is_some_and(|doubt| doubt.since.elapsed() < LONGEST_DOUBT);
        let mut changed = Vec::new();
        for mut operation in unfinished {
            let resumes = life.goal.is_some_and(|goal| goal.kind() == operation.kind);
            if (resumes || open) && self.operation.is_none() {
                self.operation = Some(operation);
                continue;
            }
            let outcome = adopt::outcome(operation.kind, self.life.state, &life, meanwhile);
            end(&mut operation, outcome);
            changed.push(operation);
        }
        self.take_over(running);
        let same = life.state == self.life.state && life.reason == self.life.reason;
        let previous = std::mem::replace(&mut self.life, life);
        if !same || !changed.is_empty() {
            self.save_or_retry(previous.state, changed).await;
        }
        self.show();
        self.carry_out(actions, false).await;
    }

    /// Serves the VM until it is deleted or the daemon goes down. What was
    /// begun with the hypervisor is finished first.
    pub async fn run(mut self, shutdown: CancellationToken) -> Ended {
        while !self.deleted {
            match self.next_input(&shutdown).await {
                Input::Command(command) => self.command(command).await,
                Input::Machine(Some(event)) => self.happen(Event::Machine(event)).await,
                Input::Machine(None) => self.lose_machine(),
                Input::Work(done) => self.done(done).await,
                Input::Deadline => {
                    self.deadline = None;
                    self.happen(Event::Deadline).await;
                }
                Input::Retry => self.save_again().await,
                Input::LookAgain => {
                    if let Some(doubt) = &mut self.doubt {
                        doubt.look_again = None;
                    }
                    let hypervisor = Arc::clone(&self.shared.hypervisor);
                    self.works.push(work::look_again(hypervisor, self.id, self.life.state));
                }
                Input::GoDown => {
                    self.finish_works().await;
                    return Ended::Detached;
                }
            }
        }
        Ended::Deleted
    }

    async fn next_input(&mut self, shutdown: &CancellationToken) -> Input {
        tokio::select! {
            () = shutdown.cancelled() => Input::GoDown,
            Some(done) = self.works.next() => Input::Work(done),
            event = next_event(&mut self.machine_events) => Input::Machine(event),
            () = sleep_until(self.deadline) => Input::Deadline,
            () = sleep_until(self.unsaved.as_ref().map(|(_, at)| *at)) => Input::Retry,
            () = sleep_until(self.doubt.as_ref().and_then(|doubt| doubt.look_again)) => Input::LookAgain,
            command = self.commands.recv() => command.map_or(Input::GoDown, Input::Command),
        }
    }

    /// A request is acknowledged when its state and its operation are on the
    /// disk; when they cannot be, nothing has happened.
    async fn command(&mut self, command: Command) {
        let (request, answer_to) = match command {
            Command::Act(request, answer) => (request, answer),
            Command::Change(patch, answer) => {
                let _ = answer.send(self.change_spec(&patch).await);
                return;
            }
        };
        let outcome = self.grant(request).await;
        let (answer, actions) = match outcome {
            Ok((operation, actions)) => (Ok(operation), actions),
            Err(error) => (Err(error), Vec::new()),
        };
        // The caller may have gone; what was granted is done all the same.
        let _ = answer_to.send(answer);
        self.carry_out(actions, true).await;
    }

    /// Takes a patch on when it is on the disk.
    async fn change_spec(&mut self, patch: &VmPatch) -> Result<(), RequestError> {
        let mut spec = VmSpec::clone(&self.spec);
        spec.autostart = patch.autostart.unwrap_or(spec.autostart);
        if spec == *self.spec {
            return Ok(());
        }
        self.shared.store.change_spec(self.id, &spec).await?;
        let (name, autostart) = (spec.name.clone(), spec.autostart);
        self.spec = Arc::new(spec);
        self.view.send_modify(|view| view.spec = Arc::clone(&self.spec));
        tracing::info!(vm = %self.id, name, autostart, "The VM's specification was changed.");
        self.shared.events.publish(Some(self.id), EventKind::Changed { name });
        Ok(())
    }

    async fn grant(&mut self, request: Request) -> Result<(Operation, Vec<Action>), RequestError> {
        let next = step(&self.life, &Event::Request(request))?;
        if request == Request::Start {
            self.launch().map_err(RequestError::NotBootable)?;
        }
        let goal = next.life.goal.expect("a granted request has a goal");
        let operation = Operation {
            id: Uuid::now_v7(),
            vm: self.id,
            kind: goal.kind(),
            state: OperationState::Running,
            progress: 0.0,
            error: None,
            created_at: Timestamp::now(),
            ended_at: None,
        };
        let mut operations = vec![operation.clone()];
        if let (Some(mut overtaken), Some(outcome)) = (self.operation.clone(), next.ended.clone()) {
            end(&mut overtaken, outcome);
            operations.insert(0, overtaken);
        }
        // What the disk did not take when it happened is written with this.
        if let Some((earlier, _)) = &self.unsaved {
            operations.splice(0..0, earlier.operations.iter().cloned());
        }
        let change = self.change(&next.life, operations);
        self.shared.store.change_state(&change).await?;
        self.unsaved = None;
        // A start and a deletion clear the run before by themselves.
        self.clear_when_saved = false;
        self.turn += 1;
        let previous = std::mem::replace(&mut self.life, next.life);
        self.operation = Some(operation.clone());
        self.tell(previous.state, &change);
        Ok((operation, next.actions))
    }

    /// Something happened: it is true whether or not it can be written down.
    async fn happen(&mut self, event: Event) {
        tracing::debug!(vm = %self.id, ?event, state = %self.life.state, "Something happened.");
        let Ok(next) = step(&self.life, &event) else {
            return;
        };
        let Step { life, actions, ended, gone } = next;
        let mut operations = Vec::new();
        if let (Some(outcome), Some(mut operation)) =
            (ended, self.operation.take_if(|_| life.goal.is_none()))
        {
            end(&mut operation, outcome);
            operations.push(operation);
        }
        if gone {
            self.forget(operations.pop()).await;
            return;
        }
        let changed = life.state != self.life.state || life.detail() != self.life.detail();
        let previous = std::mem::replace(&mut self.life, life);
        if changed || !operations.is_empty() {
            self.save_or_retry(previous.state, operations).await;
        }
        self.carry_out(actions, true).await;
    }

    async fn save_or_retry(&mut self, from: State, operations: Vec<Operation>) {
        let mut change = self.change(&self.life, operations);
        if let Some((earlier, _)) = self.unsaved.take() {
            change.operations.splice(0..0, earlier.operations);
        }
        if let Err(error) = self.shared.store.change_state(&change).await {
            tracing::error!(vm = %self.id, error = chain(&error), "A VM's state could not be written down; it will be tried again.");
            self.unsaved = Some((change.clone(), Instant::now() + RETRY));
        }
        self.tell(from, &change);
    }

    async fn save_again(&mut self) {
        let Some((change, _)) = self.unsaved.take() else { return };
        match self.shared.store.change_state(&change).await {
            Ok(()) => {
                tracing::info!(vm = %self.id, "The VM's state is written down now.");
                if self.clear_when_saved {
                    self.clear().await;
                }
            }
            Err(_) => self.unsaved = Some((change, Instant::now() + RETRY)),
        }
    }

    /// Everything was removed but the VM's record.
    async fn forget(&mut self, deletion: Option<Operation>) {
        match self.shared.store.delete_vm(self.id, deletion.as_ref()).await {
            Ok(()) => {
                self.shared.hub.forget(self.id);
                let events = &self.shared.events;
                if let Some(operation) = deletion {
                    events.publish(Some(self.id), EventKind::Operation { operation });
                }
                events.publish(Some(self.id), EventKind::Deleted { name: self.spec.name.clone() });
                self.deleted = true;
            }
            Err(error) => {
                self.operation = deletion;
                Box::pin(self.happen(Event::RemoveFailed(chain(&error)))).await;
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Launched(Ok(running)) => {
                self.take_over(Some(running));
                self.happen(Event::Launched).await;
            }
            Done::Launched(Err(error)) => {
                self.happen(Event::LaunchFailed(chain(&error))).await;
                if let StartError::Unclear { left, .. } = error {
                    self.lose_sight(left);
                }
            }
            Done::Asked { turn, event } if turn == self.turn => self.happen(event).await,
            Done::Asked { .. } | Done::Nothing => {}
            Done::LookedAt(found, running) => {
                let unfinished = self.operation.take().into_iter().collect();
                self.adopt(&found, running, unfinished, "the VM was lost sight of").await;
            }
        }
    }

    async fn carry_out(&mut self, actions: Vec<Action>, fresh: bool) {
        for action in actions {
            match action {
                Action::SetDeadline(patience) => self.deadline = Some(Instant::now() + patience),
                Action::CancelDeadline => self.deadline = None,
                Action::Launch => match self.launch() {
                    Ok(launch) => self.works.push(work::launch(&self.shared, launch)),
                    Err(why) => Box::pin(self.happen(Event::LaunchFailed(why))).await,
                },
                Action::Attach => {
                    if let Some(socket) = self.machine.as_ref().and_then(|m| m.guest_channel()) {
                        self.shared.hub.attach(self.id, socket, fresh);
                    }
                }
                Action::Port(open) => self.shared.hub.port(self.id, open),
                Action::GuestReset => self.shared.hub.reset(self.id),
                Action::Release => self.release().await,
                Action::Remove => {
                    self.shared.hub.detach(self.id).await;
                    self.works.push(work::remove(&self.shared, self.id, self.turn));
                }
                action => self.ask_machine(action),
            }
        }
        self.show();
    }

    fn ask_machine(&mut self, action: Action) {
        let Some(machine) = self.machine.clone() else { return };
        let hub = self.shared.hub.clone();
        self.works.push(work::ask(machine, hub, self.id, self.turn, action));
    }

    async fn release(&mut self) {
        self.machine = None;
        self.machine_events = None;
        self.shared.hub.detach(self.id).await;
        self.clear_when_saved = self.unsaved.is_some();
        if !self.clear_when_saved {
            self.clear().await;
        }
    }

    async fn clear(&mut self) {
        self.clear_when_saved = false;
        if let Err(error) = self.shared.hypervisor.clear(self.id).await {
            tracing::warn!(vm = %self.id, error = chain(&error), "What a dead machine left behind could not be cleared away.");
        }
    }

    fn take_over(&mut self, running: Option<Running>) {
        if let Some(Running { machine, events }) = running {
            self.machine = Some(Arc::from(machine));
            self.machine_events = Some(events);
        }
    }

    /// The machine's events ended without its exit: what became of it has to
    /// be found out, and until then it counts as alive.
    fn lose_machine(&mut self) {
        self.machine_events = None;
        tracing::error!(vm = %self.id, "The machine's events ended without its exit; looking for it.");
        self.lose_sight("its monitor fell silent for good".to_owned());
    }

    fn lose_sight(&mut self, why: String) {
        self.life.conditions.unknown = Some(why);
        self.doubt = Some(Doubt::again(None));
        self.show();
    }

    /// What is to be started, with the host's default kernel when the VM names
    /// nothing to boot from.
    fn launch(&self) -> Result<Launch, String> {
        let mut spec = VmSpec::clone(&self.spec);
        if spec.kernel.is_none() && spec.disks.is_empty() {
            spec.kernel.clone_from(&self.shared.default_kernel);
        }
        if spec.kernel.is_none() && spec.disks.is_empty() {
            return Err("there is nothing to boot: the VM has neither a kernel nor a disk, and \
                        the daemon has no default kernel (VMM_KERNEL_PATH)"
                .to_owned());
        }
        Ok(Launch { id: self.id, spec, machine_type: self.machine_type.clone() })
    }

    fn change(&self, life: &Life, operations: Vec<Operation>) -> StateChange {
        let at = if life.state == self.view.borrow().state {
            self.view.borrow().state_changed_at
        } else {
            Timestamp::now()
        };
        StateChange { id: self.id, state: life.state, detail: life.reason.clone(), at, operations }
    }

    /// Shows the new state and publishes what changed, in this order, so that
    /// who hears of a change and asks sees it.
    fn tell(&self, from: State, change: &StateChange) {
        self.view.send_modify(|view| {
            view.state_changed_at = change.at;
            if let Some(operation) = change.operations.last() {
                view.operation = Some(operation.id);
            }
        });
        self.show();
        let (id, events) = (self.id, &self.shared.events);
        if from != change.state {
            tracing::info!(vm = %id, name = %self.spec.name, %from, to = %change.state, detail = change.detail, "The VM changed its state.");
            let detail = self.life.detail();
            events.publish(Some(id), EventKind::State { from, to: change.state, detail });
        }
        for operation in &change.operations {
            events.publish(Some(id), EventKind::Operation { operation: operation.clone() });
        }
    }

    fn show(&self) {
        let pid = self.machine.as_ref().and_then(|machine| machine.pid());
        self.view.send_if_modified(|view| {
            let detail = self.life.detail();
            let same = (view.state, &view.detail, view.pid) == (self.life.state, &detail, pid);
            view.state = self.life.state;
            view.detail = detail;
            view.pid = pid;
            !same
        });
    }

    /// A launch in flight is neither cut short nor left without its result.
    async fn finish_works(&mut self) {
        while let Some(done) = self.works.next().await {
            self.done(done).await;
        }
    }
}

impl Doubt {
    /// After a look that told nothing, or before the first.
    fn again(before: Option<&Self>) -> Self {
        let (now, (first, most)) = (Instant::now(), LOOK_AGAIN);
        let pause = before.map_or(first, |doubt| (doubt.pause * 2).min(most));
        let since = before.map_or(now, |doubt| doubt.since);
        Self { since, look_again: Some(now + pause), pause }
    }
}

fn end(operation: &mut Operation, outcome: Result<(), String>) {
    operation.ended_at = Some(Timestamp::now());
    match outcome {
        Ok(()) => {
            operation.state = OperationState::Succeeded;
            operation.progress = 1.0;
        }
        Err(why) => {
            operation.state = OperationState::Failed;
            operation.error = Some(why);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next_event(events: &mut Option<mpsc::Receiver<MachineEvent>>) -> Option<MachineEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
