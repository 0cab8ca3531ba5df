//! Drivers and registry over simulated machines and a store in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;
use vmm_api::event::EventKind;
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::{State, VmSpec};

use super::registry::Registry;
use super::spec::Host;
use super::{Request, RequestError, Shared};
use crate::events::{EventBus, Next};
use crate::guest::hub::Hub;
use crate::hypervisor::simulated::SimulatedHypervisor;
use crate::hypervisor::{Exit, Hypervisor, Launch};
use crate::store::hooked::{Access, Hook, Hooked};
use crate::store::{MemoryStore, Store, StoreError, VmRecord};

/// Longer than anything here takes, shorter than a developer's patience.
const LIMIT: Duration = Duration::from_secs(20);

/// A host for a few small VMs.
const HOST: Host = Host { memory_mib: 1024, processors: 4 };

/// Makes a store fail. That SQLite says so on a really full disk is tested where
/// SQLite is.
#[derive(Default)]
struct Faults {
    full: AtomicBool,
    unreadable: AtomicBool,
}

#[async_trait]
impl Hook for Faults {
    async fn before(&self, access: Access) -> Result<(), StoreError> {
        if access == Access::Write && self.full.load(Ordering::Relaxed) {
            return Err(StoreError::Full("no space left".into()));
        }
        if access == Access::Read && self.unreadable.load(Ordering::Relaxed) {
            return Err(StoreError::Failed { doing: "read", source: "a bad sector".into() });
        }
        Ok(())
    }
}

/// All of the daemon but its doors.
pub(crate) struct Daemon {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hypervisor: SimulatedHypervisor,
    pub(crate) events: EventBus,
    pub(crate) hub: Hub,
    pub(crate) registry: Registry,
}

impl Daemon {
    pub(crate) async fn new() -> Self {
        Self::with_store(Arc::new(MemoryStore::default())).await
    }

    async fn with_store(store: Arc<dyn Store>) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let hypervisor = SimulatedHypervisor::new(folder.path());
        Self::start(folder, store, hypervisor).await
    }

    pub(crate) async fn start(
        folder: Arc<TempDir>,
        store: Arc<dyn Store>,
        hypervisor: SimulatedHypervisor,
    ) -> Self {
        Self::start_on_host(folder, store, hypervisor, "first").await
    }

    async fn start_on_host(
        folder: Arc<TempDir>,
        store: Arc<dyn Store>,
        hypervisor: SimulatedHypervisor,
        boot: &str,
    ) -> Self {
        let events = EventBus::default();
        let hub = Hub::new(events.clone());
        let shared = Shared {
            store: Arc::clone(&store),
            hypervisor: Arc::new(hypervisor.clone()),
            hub: hub.clone(),
            events: events.clone(),
            machine_type: "pc-q35-7.2".to_owned(),
            default_kernel: None,
            boot: boot.to_owned(),
        };
        let registry = Registry::load(Arc::new(shared), HOST).await.unwrap();
        Self { folder, store, hypervisor, events, hub, registry }
    }

    /// As `kill -9` and a new start would: nothing is said to the old drivers'
    /// machines.
    async fn restart(self) -> Self {
        self.registry.close().await;
        Self::start(self.folder, self.store, self.hypervisor).await
    }

    pub(crate) fn spec(&self, name: &str) -> VmSpec {
        let kernel = self.folder.path().join("kernel");
        std::fs::write(&kernel, "a kernel").unwrap();
        let raw = json!({"name": name, "vcpus": 1, "memory_mib": 64, "kernel": kernel});
        serde_json::from_value(raw).unwrap()
    }

    async fn created(&self, name: &str) -> Uuid {
        self.registry.create(self.spec(name), None).await.unwrap().id
    }

    async fn running(&self, name: &str) -> Uuid {
        let id = self.created(name).await;
        assert_eq!(self.does(id, Request::Start).await, Ok(()));
        id
    }

    pub(crate) async fn ended(&self, operation: &Operation) -> Result<(), String> {
        let ended = self.registry.wait_operation(operation.id, LIMIT).await.unwrap().unwrap();
        match ended.state {
            OperationState::Succeeded => Ok(()),
            OperationState::Failed => Err(ended.error.unwrap()),
            OperationState::Running => panic!("{ended:?} did not end"),
        }
    }

    pub(crate) async fn does(&self, id: Uuid, request: Request) -> Result<(), String> {
        let operation = self.registry.request(id, request).await.unwrap();
        assert_eq!(operation.state, OperationState::Running);
        self.ended(&operation).await
    }

    pub(crate) fn state(&self, id: Uuid) -> (State, Option<String>) {
        let vm = self.registry.vm(id).unwrap();
        (vm.state, vm.state_detail)
    }

    /// Waits until the VM is in that state, and tells its detail.
    async fn reaches(&self, id: Uuid, state: State) -> Option<String> {
        let mut events = self.events.subscribe(None);
        let wait = async {
            while self.state(id).0 != state {
                events.next().await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("the state is reached in time");
        self.state(id).1
    }

    async fn stored(&self, id: Uuid) -> State {
        self.store.vms().await.unwrap().into_iter().find(|vm| vm.id == id).unwrap().state
    }
}

#[tokio::test]
async fn a_life_from_creation_to_deletion() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    assert_eq!(daemon.state(id), (State::Running, None));
    assert_eq!(daemon.stored(id).await, State::Running);
    assert!(daemon.registry.vm(id).unwrap().pid.is_some());
    assert_eq!(daemon.does(id, Request::Pause).await, Ok(()));
    assert_eq!(daemon.state(id).0, State::Paused);
    assert_eq!(daemon.does(id, Request::Resume).await, Ok(()));
    assert_eq!(daemon.state(id).0, State::Running);
    daemon.hypervisor.control(id).obey_power_button(true);
    assert_eq!(daemon.does(id, Request::Stop(None)).await, Ok(()));
    assert_eq!(daemon.state(id), (State::Stopped, None));
    assert_eq!(daemon.does(id, Request::Delete).await, Ok(()));
    assert!(daemon.store.vms().await.unwrap().is_empty());
    assert!(daemon.hypervisor.inventory().await.unwrap().is_empty());
    daemon.registry.close().await;
    assert_eq!(daemon.registry.find("web"), None);
}

#[tokio::test]
async fn a_paused_vm_is_resumed_to_be_stopped() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    daemon.hypervisor.control(id).obey_power_button(true);
    daemon.does(id, Request::Pause).await.unwrap();
    assert_eq!(daemon.does(id, Request::Stop(None)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_go_down_is_killed_at_the_deadline_and_not_before() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    let began = tokio::time::Instant::now();
    let minute = Duration::from_secs(60);
    let operation = daemon.registry.request(id, Request::Stop(Some(minute))).await.unwrap();
    let operation = daemon.registry.wait_operation(operation.id, 2 * minute).await.unwrap();
    assert_eq!(operation.unwrap().state, OperationState::Succeeded);
    assert_eq!(began.elapsed().as_secs(), 60);
    let (state, detail) = daemon.state(id);
    assert_eq!(state, State::Stopped);
    assert!(detail.unwrap().starts_with("killed: the guest had not shut down"));
}

#[tokio::test(start_paused = true)]
async fn a_warm_restart_resets_at_the_deadline_and_a_cold_one_starts_anew() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    let deadline = Some(Duration::from_secs(5));
    let warm = Request::Restart { cold: false, deadline };
    assert_eq!(daemon.does(id, warm).await, Ok(()));
    assert_eq!(daemon.state(id).0, State::Running);
    let never = Request::Restart { cold: false, deadline: None };
    let error = daemon.does(id, never).await.unwrap_err();
    assert!(error.contains("could not be asked"), "{error}");
    assert_eq!(daemon.does(id, Request::Restart { cold: true, deadline }).await, Ok(()));
    assert_eq!(daemon.state(id), (State::Running, None));
}

#[tokio::test]
async fn how_a_machine_ended_by_itself_is_told() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    daemon.hypervisor.control(id).power_off().await;
    let detail = daemon.reaches(id, State::Stopped).await;
    assert_eq!(detail.as_deref(), Some("the guest powered itself off"));
    daemon.does(id, Request::Start).await.unwrap();
    daemon.hypervisor.control(id).exit(Exit::Signal(11)).await;
    let detail = daemon.reaches(id, State::Failed).await;
    assert_eq!(detail.as_deref(), Some("its hypervisor was ended by signal 11"));
    assert_eq!(daemon.does(id, Request::Start).await, Ok(()));
    assert_eq!(daemon.does(id, Request::Kill).await, Ok(()));
    assert_eq!(daemon.state(id), (State::Stopped, Some("killed".to_owned())));
}

#[tokio::test]
async fn a_silent_monitor_and_a_lost_keeper_are_said_beside_the_state() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    let control = daemon.hypervisor.control(id);
    control.silence(true).await;
    let error = daemon.does(id, Request::Pause).await.unwrap_err();
    assert!(error.contains("did not answer"), "{error}");
    let (state, detail) = daemon.state(id);
    assert_eq!(state, State::Running);
    assert!(detail.unwrap().contains("its monitor does not answer"));
    control.silence(false).await;
    control.replace_keeper().await;
    assert_eq!(daemon.does(id, Request::Pause).await, Ok(()));
    assert_eq!(daemon.state(id), (State::Paused, None));
}

#[tokio::test]
async fn requests_are_refused_with_a_reason() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    for request in [Request::Start, Request::Resume, Request::Delete] {
        let error = daemon.registry.request(id, request).await.unwrap_err();
        assert!(matches!(error, RequestError::Refused(_)), "{error}");
    }
    let spec = serde_json::from_value(json!({"name": "bare", "vcpus": 1, "memory_mib": 64}));
    let bare = daemon.registry.create(spec.unwrap(), None).await.unwrap().id;
    let error = daemon.registry.request(bare, Request::Start).await.unwrap_err();
    assert!(error.to_string().contains("neither a kernel nor a disk"), "{error}");
    assert_eq!(daemon.state(bare), (State::Created, None));
    let taken = daemon.registry.create(daemon.spec("web"), None).await.unwrap_err();
    assert!(taken.to_string().contains("is taken"));
    let gone = daemon.registry.request(Uuid::nil(), Request::Start).await.unwrap_err();
    assert!(matches!(gone, RequestError::NoSuchVm(_)));
}

#[tokio::test]
async fn a_kernel_that_went_away_makes_the_start_fail_and_says_so() {
    let daemon = Daemon::new().await;
    let id = daemon.created("web").await;
    std::fs::remove_file(daemon.folder.path().join("kernel")).unwrap();
    let error = daemon.does(id, Request::Start).await.unwrap_err();
    assert!(error.contains("is not there"), "{error}");
    let (state, detail) = daemon.state(id);
    assert_eq!(state, State::Failed);
    assert!(detail.unwrap().starts_with("it did not start"));
}

#[tokio::test]
async fn a_restarted_daemon_finds_every_vm_as_it_is() {
    let daemon = Daemon::new().await;
    let runs = daemon.running("runs").await;
    let paused = daemon.running("paused").await;
    daemon.does(paused, Request::Pause).await.unwrap();
    let ended = daemon.running("ended").await;
    let crashed = daemon.running("crashed").await;
    let lost = daemon.running("lost").await;
    let stopping = daemon.running("stopping").await;
    let stop = daemon.registry.request(stopping, Request::Stop(None)).await.unwrap();
    let still = daemon.running("still").await;
    let late = daemon.registry.request(still, Request::Stop(None)).await.unwrap();
    let rests = daemon.created("rests").await;
    daemon.registry.close().await;
    daemon.hypervisor.control(ended).exit(Exit::Status(0)).await;
    daemon.hypervisor.control(crashed).exit(Exit::Unseen).await;
    daemon.hypervisor.control(stopping).exit(Exit::Status(0)).await;
    daemon.hypervisor.control(lost).lose_track();
    let daemon = daemon.restart().await;

    assert_eq!(daemon.state(runs), (State::Running, None));
    assert_eq!(daemon.state(paused).0, State::Paused);
    assert_eq!(daemon.state(rests), (State::Created, None));
    let (state, detail) = daemon.state(ended);
    assert_eq!(state, State::Stopped);
    assert!(detail.unwrap().starts_with("while the daemon was away"));
    let (state, detail) = daemon.state(crashed);
    assert_eq!(state, State::Failed);
    assert!(detail.unwrap().contains("nobody saw how it ended"));
    let (state, detail) = daemon.state(lost);
    assert_eq!(state, State::Running);
    assert!(detail.unwrap().contains("could not be identified"));
    for request in [Request::Start, Request::Kill, Request::Delete] {
        let error = daemon.registry.request(lost, request).await.unwrap_err();
        assert!(error.to_string().contains("could not be identified"), "{error}");
    }
    assert_eq!(daemon.state(stopping).0, State::Stopped);
    assert_eq!(daemon.ended(&stop).await, Ok(()));
    assert_eq!(daemon.state(still).0, State::Running);
    let error = daemon.ended(&late).await.unwrap_err();
    assert!(error.contains("the daemon was restarted"), "{error}");
    assert!(daemon.store.unfinished_operations().await.unwrap().is_empty());
    assert_eq!(daemon.does(runs, Request::Kill).await, Ok(()));
}

#[tokio::test]
async fn a_restart_of_the_host_is_no_fault_of_a_vm() {
    let daemon = Daemon::new().await;
    let runs = daemon.running("runs").await;
    let paused = daemon.running("paused").await;
    daemon.does(paused, Request::Pause).await.unwrap();
    let stopping = daemon.running("stopping").await;
    let stop = daemon.registry.request(stopping, Request::Stop(None)).await.unwrap();
    let unseen = daemon.running("unseen").await;
    let crashed = daemon.running("crashed").await;
    let rests = daemon.created("rests").await;
    daemon.registry.close().await;
    for (id, how) in [(unseen, Exit::Unseen), (crashed, Exit::Signal(6))] {
        daemon.hypervisor.control(id).exit(how).await;
    }
    for id in [runs, paused, stopping] {
        daemon.hypervisor.control(id).exit(Exit::Unseen).await;
        daemon.hypervisor.purge(id).await.unwrap();
    }
    let Daemon { folder, store, hypervisor, .. } = daemon;
    let daemon = Daemon::start_on_host(folder, store, hypervisor, "second").await;
    for (id, what) in [
        (runs, "the host was restarted while it ran"),
        (unseen, "the host was restarted while it ran"),
        (paused, "the host was restarted while it was paused"),
        (stopping, "the host was restarted while it was going down"),
    ] {
        assert_eq!(daemon.state(id), (State::Stopped, Some(what.to_owned())));
    }
    assert_eq!(daemon.ended(&stop).await, Ok(()));
    assert_eq!(daemon.state(rests), (State::Created, None));
    let (state, detail) = daemon.state(crashed);
    assert_eq!(state, State::Failed, "that was before: {detail:?}");
    assert_eq!(daemon.does(runs, Request::Start).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_operation_ends_when_its_machine_is_lost_sight_of() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    let stop = daemon.registry.request(id, Request::Stop(None)).await.unwrap();
    daemon.hypervisor.control(id).lose_events();
    let error = daemon.ended(&stop).await.unwrap_err();
    assert!(error.contains("lost sight of"), "{error}");
    assert_eq!(daemon.reaches(id, State::Running).await.as_deref().map(str::is_empty), Some(false));
    assert_eq!(daemon.does(id, Request::Kill).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_could_not_be_identified_is_looked_at_again() {
    let daemon = Daemon::new().await;
    let id = daemon.running("web").await;
    daemon.registry.close().await;
    daemon.hypervisor.control(id).lose_track();
    let daemon = daemon.restart().await;
    assert_eq!(daemon.state(id).0, State::Running);
    daemon.hypervisor.control(id).exit(Exit::Status(0)).await;
    daemon.reaches(id, State::Stopped).await;
}

/// Start-up with as many VMs as one host is planned for, half of which run.
#[tokio::test]
async fn ten_thousand_vms_are_back_after_a_restart() {
    const VMS: usize = 10_000;
    let daemon = Daemon::new().await;
    let spec = daemon.spec("any");
    for index in 0..VMS {
        let id = Uuid::new_v4();
        let state = if index % 2 == 0 { State::Running } else { State::Stopped };
        let record = VmRecord {
            id,
            spec: VmSpec { name: format!("vm-{index:05}"), ..spec.clone() },
            machine_type: "pc-q35-7.2".to_owned(),
            state,
            state_detail: None,
            created_at: Timestamp::now(),
            state_changed_at: Timestamp::now(),
        };
        daemon.store.insert_vm(&record, None).await.unwrap();
        if state == State::Running {
            std::fs::write(daemon.folder.path().join(format!("{id}.run")), "running").unwrap();
        }
    }
    let begun = std::time::Instant::now();
    let daemon = daemon.restart().await;
    let vms = daemon.registry.list();
    println!("{VMS} VMs were found and listed after {:.1?}", begun.elapsed());
    assert_eq!(vms.len(), VMS);
    assert!(vms.iter().map(|vm| &vm.spec.name).is_sorted());
    let running = vms.iter().filter(|vm| vm.state == State::Running).count();
    assert_eq!(running, VMS / 2);
    daemon.registry.close().await;
    daemon.hub.close().await;
}

#[tokio::test]
async fn a_stranger_is_left_alone() {
    let daemon = Daemon::new().await;
    let id = Uuid::new_v4();
    let spec = daemon.spec("stranger");
    let launch = Launch { id, spec, machine_type: "pc-q35-7.2".to_owned() };
    let _running = daemon.hypervisor.start(&launch).await.unwrap();
    let daemon = daemon.restart().await;
    assert!(daemon.registry.list().is_empty());
    assert_eq!(daemon.hypervisor.inventory().await.unwrap(), [id]);
}

#[tokio::test]
async fn a_full_disk_refuses_requests_and_forgets_nothing_that_happens() {
    let store = Arc::new(Hooked::<Faults>::default());
    let daemon = Daemon::with_store(Arc::clone(&store) as Arc<dyn Store>).await;
    let id = daemon.running("web").await;
    let stop = daemon.registry.request(id, Request::Stop(None)).await.unwrap();
    store.hook.full.store(true, Ordering::Relaxed);
    let error = daemon.registry.request(id, Request::Kill).await.unwrap_err();
    assert!(error.to_string().contains("disk that holds the state is full"), "{error}");
    assert!(daemon.registry.vm(id).unwrap().pid.is_some(), "nothing was done");
    daemon.hypervisor.control(id).power_off().await;
    daemon.reaches(id, State::Stopped).await;
    assert_eq!(daemon.stored(id).await, State::Stopping, "it could not be written");
    store.hook.full.store(false, Ordering::Relaxed);
    assert_eq!(daemon.does(id, Request::Start).await, Ok(()));
    assert_eq!(daemon.stored(id).await, State::Running);
    assert_eq!(daemon.ended(&stop).await, Ok(()), "how it ended was not forgotten");
}

#[tokio::test]
async fn an_end_that_the_disk_did_not_take_is_told_by_the_next_daemon() {
    let store = Arc::new(Hooked::<Faults>::default());
    let daemon = Daemon::with_store(Arc::clone(&store) as Arc<dyn Store>).await;
    let id = daemon.running("web").await;
    store.hook.full.store(true, Ordering::Relaxed);
    daemon.hypervisor.control(id).power_off().await;
    daemon.reaches(id, State::Stopped).await;
    store.hook.full.store(false, Ordering::Relaxed);
    // Before it is tried again.
    let daemon = daemon.restart().await;
    let (state, detail) = daemon.state(id);
    assert_eq!(state, State::Stopped, "{detail:?}");
    assert_eq!(daemon.stored(id).await, State::Stopped);
}

#[tokio::test]
async fn a_state_that_cannot_be_read_ends_the_start_and_touches_no_machine() {
    let store = Arc::new(Hooked::<Faults>::default());
    let daemon = Daemon::with_store(Arc::clone(&store) as Arc<dyn Store>).await;
    let runs = daemon.running("runs").await;
    let rests = daemon.created("rests").await;
    daemon.registry.close().await;
    store.hook.unreadable.store(true, Ordering::Relaxed);
    let shared = Shared {
        store: Arc::clone(&daemon.store),
        hypervisor: Arc::new(daemon.hypervisor.clone()),
        hub: daemon.hub.clone(),
        events: daemon.events.clone(),
        machine_type: "pc-q35-7.2".to_owned(),
        default_kernel: None,
        boot: "first".to_owned(),
    };
    let Err(error) = Registry::load(Arc::new(shared), HOST).await else { panic!("it went on") };
    assert!(error.to_string().contains("could not be read"), "{error}");
    assert!(daemon.hypervisor.runs(runs), "nothing was killed");
    store.hook.unreadable.store(false, Ordering::Relaxed);
    let daemon = daemon.restart().await;
    assert_eq!(daemon.state(runs), (State::Running, None));
    assert_eq!(daemon.state(rests), (State::Created, None));
}

#[tokio::test]
async fn what_happens_is_told_in_order() {
    let daemon = Daemon::new().await;
    let mut events = daemon.events.subscribe(None);
    let id = daemon.running("web").await;
    let mut told = Vec::new();
    while told.len() < 5 {
        let Next::Event(event) = events.next().await else { panic!("events were lost") };
        assert_eq!(event.vm, Some(id));
        let event: vmm_api::event::Event = serde_json::from_str(&event.json).unwrap();
        told.push(match event.kind {
            EventKind::State { from, to, .. } => format!("{from} to {to}"),
            EventKind::Operation { operation } => {
                format!("{} {:?}", operation.kind, operation.state)
            }
            EventKind::Created { name } => format!("created {name}"),
            other => format!("{other:?}"),
        });
    }
    let expected = [
        "created web",
        "created to starting",
        "start Running",
        "starting to running",
        "start Succeeded",
    ];
    assert_eq!(told, expected);
}
