//! Machines that are only claimed to run, with the behaviour that the real ones
//! show to their driver. Tests decide what happens to them.

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

/// The seconds that a silent monitor claims to have been waited for.
const WAITED: u64 = 10;

/// What a process killed by force ends with.
const SIGKILL: i32 = 9;

/// A host whose machines outlive every clone of this, as real ones outlive the
/// daemon.
#[derive(Clone)]
pub struct SimulatedHypervisor {
    dir: PathBuf,
    machines: Arc<Mutex<BTreeMap<Uuid, Traces>>>,
}

/// What a host holds of one machine.
#[derive(Clone, Default)]
struct Traces {
    run: Option<Arc<Mutex<Run>>>,
}

struct Run {
    pid: u32,
    state: RunState,
    exit: Option<Exit>,
    events: Option<mpsc::Sender<MachineEvent>>,
    is_silent: bool,
    is_unidentified: bool,
    obeys_power_button: bool,
}

impl SimulatedHypervisor {
    /// A host without machines. Console logs and the guests' channels lie in
    /// `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), machines: Arc::default() }
    }

    /// What a test does to a machine.
    ///
    /// # Panics
    ///
    /// When the machine has never run.
    pub fn control(&self, id: Uuid) -> Control {
        let run = self.run(id).expect("the machine has run");
        Control { run }
    }

    /// Whether a machine runs.
    pub fn runs(&self, id: Uuid) -> bool {
        self.run(id).is_some_and(|run| lock(&run).exit.is_none())
    }

    /// Where the host's end of a machine's agent port is, for a test that
    /// listens there in the guest's place.
    pub fn guest_channel(&self, id: Uuid) -> PathBuf {
        self.dir.join(format!("{id}.sock"))
    }

    fn log(&self, id: Uuid) -> PathBuf {
        self.dir.join(format!("{id}.log"))
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<Uuid, Traces>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, id: Uuid) -> Option<Arc<Mutex<Run>>> {
        self.machines().get(&id)?.run.clone()
    }

    fn running(&self, id: Uuid, run: Arc<Mutex<Run>>) -> Running {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        lock(&run).events = Some(sender);
        Running {
            machine: Box::new(SimulatedMachine { run, guest_channel: self.guest_channel(id) }),
            events,
        }
    }

    fn remove(&self, id: Uuid, with_log: bool) -> Result<(), MachineError> {
        if self.runs(id) {
            return Err(MachineError::Unidentified("it still runs".into()));
        }
        if with_log {
            // It may be gone already.
            let _ = std::fs::remove_file(self.log(id));
        }
        let mut machines = self.machines();
        if self.log(id).exists() {
            machines.insert(id, Traces::default());
        } else {
            machines.remove(&id);
        }
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
        let failed = |source: std::io::Error| StartError::Failed {
            context: "the console log could not be written".into(),
            source: source.into(),
        };
        std::fs::write(self.log(id), "Booting\n").map_err(failed)?;
        let run = Arc::new(Mutex::new(Run {
            pid: std::process::id(),
            state: RunState::Running,
            exit: None,
            events: None,
            is_silent: false,
            is_unidentified: false,
            obeys_power_button: false,
        }));
        self.machines().insert(id, Traces { run: Some(run.clone()) });
        Ok(self.running(id, run))
    }

    async fn adopt(&self, id: Uuid) -> Adoption {
        let Some(run) = self.run(id) else { return Adoption::Gone(None) };
        let (exit, state, is_unidentified) = {
            let run = lock(&run);
            (run.exit.clone(), run.state, run.is_unidentified)
        };
        match exit {
            Some(exit) => Adoption::Gone(Some(exit)),
            None if is_unidentified => Adoption::Unknown("a test says so".into()),
            None => Adoption::Running(self.running(id, run), state),
        }
    }

    async fn clear(&self, id: Uuid) -> Result<(), MachineError> {
        self.remove(id, false)
    }

    async fn purge(&self, id: Uuid) -> Result<(), MachineError> {
        self.remove(id, true)
    }

    async fn inventory(&self) -> Result<Vec<Uuid>, MachineError> {
        Ok(self.machines().keys().copied().collect())
    }

    fn console_log(&self, id: Uuid) -> Vec<PathBuf> {
        Some(self.log(id)).filter(|log| log.exists()).into_iter().collect()
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
    fn ask(&self) -> Result<(), MachineError> {
        let run = lock(&self.run);
        match run {
            ref run if run.exit.is_some() => Err(MachineError::Gone),
            ref run if run.is_silent => Err(MachineError::Silent(WAITED)),
            _ => Ok(()),
        }
    }

    async fn switch(&self, state: RunState, event: MachineEvent) -> Result<(), MachineError> {
        self.ask()?;
        if std::mem::replace(&mut lock(&self.run).state, state) != state {
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
            power_off(&self.run).await;
        }
        Ok(())
    }

    async fn reset(&self) -> Result<(), MachineError> {
        self.ask()?;
        tell(&self.run, MachineEvent::Reset).await;
        Ok(())
    }

    async fn kill(&self) -> Result<(), MachineError> {
        if lock(&self.run).exit.is_some() {
            return Err(MachineError::Gone);
        }
        exit(&self.run, Exit::Signal(SIGKILL)).await;
        Ok(())
    }

    async fn status(&self) -> Result<RunState, MachineError> {
        self.ask()?;
        Ok(lock(&self.run).state)
    }

    fn pid(&self) -> Option<u32> {
        let run = lock(&self.run);
        run.exit.is_none().then_some(run.pid)
    }

    fn guest_channel(&self) -> Option<PathBuf> {
        Some(self.guest_channel.clone())
    }
}

/// What a test does to a machine.
pub struct Control {
    run: Arc<Mutex<Run>>,
}

impl Control {
    /// The guest powers itself off.
    pub async fn power_off(&self) {
        power_off(&self.run).await;
    }

    /// The guest obeys the power button from now on, or not; at first it does
    /// not.
    pub fn obey_power_button(&self, obeys: bool) {
        lock(&self.run).obeys_power_button = obeys;
    }

    /// The process ends.
    pub async fn exit(&self, how: Exit) {
        exit(&self.run, how).await;
    }

    /// The guest opens or closes the agent's port.
    pub async fn port(&self, open: bool) {
        tell(&self.run, MachineEvent::AgentPort(open)).await;
    }

    /// The guest's kernel panics.
    pub async fn panic(&self) {
        tell(&self.run, MachineEvent::Panicked).await;
    }

    /// The guest reboots by itself.
    pub async fn reboot(&self) {
        tell(&self.run, MachineEvent::Reset).await;
    }

    /// The monitor falls silent, or answers again.
    pub async fn silence(&self, silent: bool) {
        lock(&self.run).is_silent = silent;
        let event = match silent {
            true => MachineEvent::MonitorLost("a test silenced it".into()),
            false => MachineEvent::MonitorBack,
        };
        tell(&self.run, event).await;
    }

    /// The keeper dies, and a new one takes over.
    pub async fn replace_keeper(&self) {
        tell(&self.run, MachineEvent::KeeperLost).await;
        tell(&self.run, MachineEvent::KeeperBack).await;
    }

    /// The machine's events end without a word, though it runs on.
    pub fn lose_events(&self) {
        lock(&self.run).events = None;
    }

    /// From now on nobody can tell whether the process is the machine.
    pub fn lose_track(&self) {
        lock(&self.run).is_unidentified = true;
    }
}

async fn power_off(run: &Mutex<Run>) {
    tell(run, MachineEvent::PoweringOff).await;
    exit(run, Exit::Status(0)).await;
}

async fn exit(run: &Mutex<Run>, how: Exit) {
    lock(run).exit = Some(how.clone());
    tell(run, MachineEvent::Exited(how)).await;
    // The last event ends the stream.
    lock(run).events = None;
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

#[cfg(test)]
mod tests {
    use super::super::contract::{Subject, contract};
    use super::*;

    struct Simulated {
        _dir: tempfile::TempDir,
        hypervisor: SimulatedHypervisor,
    }

    impl Subject for Simulated {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let hypervisor = SimulatedHypervisor::new(dir.path());
            Self { _dir: dir, hypervisor }
        }

        fn hypervisor(&self) -> &dyn Hypervisor {
            &self.hypervisor
        }

        fn machine_type(&self) -> String {
            "pc-q35-7.2".into()
        }

        async fn restart_daemon(&mut self) {
            self.hypervisor = self.hypervisor.clone();
        }
    }

    contract!(Simulated);

    #[tokio::test]
    async fn a_test_can_do_to_a_machine_what_guests_and_hosts_do() {
        let subject = Simulated::new().await;
        let launch = subject.launch();
        let mut running = subject.hypervisor.start(&launch).await.unwrap();
        let control = subject.hypervisor.control(launch.id);
        control.port(true).await;
        control.silence(true).await;
        assert!(matches!(running.machine.status().await, Err(MachineError::Silent(_))));
        control.silence(false).await;
        running.machine.press_power_button().await.unwrap();
        control.obey_power_button(true);
        running.machine.press_power_button().await.unwrap();
        let mut heard = Vec::new();
        while let Some(event) = running.events.recv().await {
            heard.push(event);
        }
        let lost = MachineEvent::MonitorLost("a test silenced it".into());
        let expected = [
            MachineEvent::AgentPort(true),
            lost,
            MachineEvent::MonitorBack,
            MachineEvent::PoweringOff,
            MachineEvent::Exited(Exit::Status(0)),
        ];
        assert_eq!(heard, expected);
    }

    #[tokio::test]
    async fn a_machine_that_cannot_be_identified_is_unknown() {
        let subject = Simulated::new().await;
        let launch = subject.launch();
        let _running = subject.hypervisor.start(&launch).await.unwrap();
        subject.hypervisor.control(launch.id).lose_track();
        assert!(matches!(subject.hypervisor.adopt(launch.id).await, Adoption::Unknown(_)));
        let control = subject.hypervisor.control(launch.id);
        control.panic().await;
        control.reboot().await;
        control.replace_keeper().await;
        control.exit(Exit::Unseen).await;
        assert!(matches!(
            subject.hypervisor.adopt(launch.id).await,
            Adoption::Gone(Some(Exit::Unseen))
        ));
        control.power_off().await;
    }
}
