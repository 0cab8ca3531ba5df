//! Machines that are only claimed to run, with the behaviour that the real ones
//! show to their driver. Unit tests decide what happens to them; a daemon built
//! with the feature `simulated` holds thousands of them where no QEMU would
//! have room. That feature is in no program that is shipped.
//!
//! A machine runs for as long as its file in the folder says so, and thereby
//! outlives the daemon. Whoever plays its guest listens on the socket beside it.

#[cfg(test)]
mod control;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;
use vmm_api::vm::VmSpec;

use super::{
    Adoption, EVENT_QUEUE, Exit, Hypervisor, Launch, Machine, MachineError, MachineEvent, RunState,
    Running, StartError,
};
use trace::{Folder, Trace};

/// The seconds that a silent monitor claims to have been waited for.
const WAITED: u64 = 10;

/// What a process killed by force ends with.
const SIGKILL: i32 = 9;

/// The machines of one folder. Clones share them.
#[derive(Clone)]
pub struct SimulatedHypervisor {
    folder: Arc<Folder>,
    /// Those that this process started or adopted.
    runs: Arc<Mutex<BTreeMap<Uuid, Arc<Mutex<Run>>>>>,
}

struct Run {
    id: Uuid,
    folder: Arc<Folder>,
    trace: Trace,
    events: Option<mpsc::Sender<MachineEvent>>,
    is_silent: bool,
    is_unidentified: bool,
    obeys_power_button: bool,
}

impl SimulatedHypervisor {
    /// The machines whose files, console logs and guests' channels lie in
    /// `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { folder: Arc::new(Folder::new(dir)), runs: Arc::default() }
    }

    /// Whether a machine runs.
    pub fn runs(&self, id: Uuid) -> bool {
        self.run(id).is_some_and(|run| lock(&run).exit().is_none())
    }

    fn run(&self, id: Uuid) -> Option<Arc<Mutex<Run>>> {
        self.all().get(&id).cloned()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Mutex<Run>>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run of a machine that has a trace.
    fn know(&self, id: Uuid, trace: Trace) -> Arc<Mutex<Run>> {
        let run = Arc::new(Mutex::new(Run {
            id,
            folder: Arc::clone(&self.folder),
            trace,
            events: None,
            is_silent: false,
            is_unidentified: false,
            obeys_power_button: false,
        }));
        self.all().insert(id, Arc::clone(&run));
        run
    }

    fn running(&self, id: Uuid, run: Arc<Mutex<Run>>) -> Running {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        lock(&run).events = Some(sender);
        let guest_channel = self.folder.guest_channel(id);
        Running { machine: Box::new(SimulatedMachine { run, guest_channel }), events }
    }

    fn remove(&self, id: Uuid, with_log: bool) -> Result<(), MachineError> {
        if self.runs(id) {
            return Err(MachineError::Unidentified("it still runs".into()));
        }
        self.folder.remove(id, with_log).map_err(os("its files could not be removed"))?;
        self.all().remove(&id);
        Ok(())
    }
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    async fn start(&self, launch: &Launch) -> Result<Running, StartError> {
        let id = launch.id;
        if self.runs(id) {
            return Err(StartError::Refused("the VM runs already".into()));
        }
        check(&launch.spec).map_err(StartError::Refused)?;
        let trace = Trace::Alive(RunState::Running);
        self.folder.begin(id, &trace).map_err(|source| StartError::Failed {
            context: "the machine's files could not be written".into(),
            source: source.into(),
        })?;
        let run = self.know(id, trace);
        Ok(self.running(id, run))
    }

    async fn adopt(&self, id: Uuid) -> Adoption {
        let run = match (self.run(id), self.folder.read(id)) {
            (Some(run), _) => run,
            (None, Ok(Some(trace))) => self.know(id, trace),
            (None, Ok(None)) => return Adoption::Gone(None),
            (None, Err(error)) => return Adoption::Unknown(error.to_string()),
        };
        let (trace, is_unidentified) = {
            let run = lock(&run);
            (run.trace.clone(), run.is_unidentified)
        };
        match trace {
            Trace::Ended(exit) => Adoption::Gone(Some(exit)),
            Trace::Alive(_) if is_unidentified => Adoption::Unknown("a test says so".into()),
            Trace::Alive(state) => Adoption::Running(self.running(id, run), state),
        }
    }

    async fn clear(&self, id: Uuid) -> Result<(), MachineError> {
        self.remove(id, false)
    }

    async fn purge(&self, id: Uuid) -> Result<(), MachineError> {
        self.remove(id, true)
    }

    async fn inventory(&self) -> Result<Vec<Uuid>, MachineError> {
        self.folder.ids().map_err(os("the folder of the machines could not be read"))
    }

    fn console_log(&self, id: Uuid) -> Vec<PathBuf> {
        Some(self.folder.log(id)).filter(|log| log.exists()).into_iter().collect()
    }
}

fn os(what: &'static str) -> impl Fn(std::io::Error) -> MachineError {
    move |error| MachineError::Os(what.to_owned(), error)
}

impl Run {
    fn exit(&self) -> Option<&Exit> {
        match &self.trace {
            Trace::Ended(exit) => Some(exit),
            Trace::Alive(_) => None,
        }
    }

    fn write(&mut self, trace: Trace) -> Result<(), MachineError> {
        self.folder
            .write(self.id, &trace)
            .map_err(os("the machine's file could not be written"))?;
        self.trace = trace;
        Ok(())
    }
}

fn check(spec: &VmSpec) -> Result<(), String> {
    if spec.kernel.is_none() && spec.disks.is_empty() {
        return Err("the VM has neither a kernel nor a disk, so there is nothing to boot".into());
    }
    let disks = spec.disks.iter().map(|disk| &disk.path);
    let missing =
        spec.kernel.iter().chain(&spec.initrd).chain(disks).find(|path| !Path::new(path).exists());
    match missing {
        Some(path) => Err(format!("{path} is not there")),
        None => Ok(()),
    }
}

struct SimulatedMachine {
    run: Arc<Mutex<Run>>,
    guest_channel: PathBuf,
}

impl SimulatedMachine {
    fn ask(&self) -> Result<RunState, MachineError> {
        let run = lock(&self.run);
        match run.trace {
            Trace::Ended(_) => Err(MachineError::Gone),
            Trace::Alive(_) if run.is_silent => Err(MachineError::Silent(WAITED)),
            Trace::Alive(state) => Ok(state),
        }
    }

    async fn switch(&self, state: RunState, event: MachineEvent) -> Result<(), MachineError> {
        if self.ask()? != state {
            lock(&self.run).write(Trace::Alive(state))?;
            tell(&self.run, event).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Machine for SimulatedMachine {
    async fn pause(&self) -> Result<(), MachineError> {
        self.switch(RunState::Paused, MachineEvent::Paused).await
    }

    async fn resume(&self) -> Result<(), MachineError> {
        self.switch(RunState::Running, MachineEvent::Resumed).await
    }

    async fn press_power_button(&self) -> Result<(), MachineError> {
        self.ask()?;
        if lock(&self.run).obeys_power_button {
            power_off(&self.run).await?;
        }
        Ok(())
    }

    async fn reset(&self) -> Result<(), MachineError> {
        self.ask()?;
        tell(&self.run, MachineEvent::Reset).await;
        Ok(())
    }

    async fn kill(&self) -> Result<(), MachineError> {
        if lock(&self.run).exit().is_some() {
            return Err(MachineError::Gone);
        }
        exit(&self.run, Exit::Signal(SIGKILL)).await
    }

    async fn status(&self) -> Result<RunState, MachineError> {
        self.ask()
    }

    /// There is no process but the one that claims it to run.
    fn pid(&self) -> Option<u32> {
        lock(&self.run).exit().is_none().then(std::process::id)
    }

    fn guest_channel(&self) -> Option<PathBuf> {
        Some(self.guest_channel.clone())
    }
}

async fn power_off(run: &Mutex<Run>) -> Result<(), MachineError> {
    tell(run, MachineEvent::PoweringOff).await;
    exit(run, Exit::Status(0)).await
}

async fn exit(run: &Mutex<Run>, how: Exit) -> Result<(), MachineError> {
    lock(run).write(Trace::Ended(how.clone()))?;
    tell(run, MachineEvent::Exited(how)).await;
    // The last event ends the stream.
    lock(run).events = None;
    Ok(())
}

async fn tell(run: &Mutex<Run>, event: MachineEvent) {
    let events = lock(run).events.clone();
    if let Some(events) = events {
        // A driver that let go hears nothing, and the machine runs on.
        let _ = events.send(event).await;
    }
}

fn lock(run: &Mutex<Run>) -> MutexGuard<'_, Run> {
    run.lock().unwrap_or_else(PoisonError::into_inner)
}
