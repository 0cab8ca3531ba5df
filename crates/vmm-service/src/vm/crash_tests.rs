//! The daemon killed at every instant that matters: before and after each thing
//! that it writes down. What the next one says of every VM must be true.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::Notify;
use vmm_api::operation::{Operation, OperationKind, OperationState};
use vmm_api::vm::{State, VmPatch};

use super::Request;
use super::driver_tests::Daemon;
use crate::hypervisor::simulated::SimulatedHypervisor;
use crate::hypervisor::{Adoption, Exit, Hypervisor, Launch};
use crate::store::hooked::{Access, Hook, Hooked};
use crate::store::{MemoryStore, Store, StoreError};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Whether what was being written at the kill had reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Before,
    After,
}

/// Stands still for ever at one write: whoever waits for it does nothing more,
/// as if it had been killed there.
struct Cutting {
    cut: Cut,
    left: AtomicUsize,
    reached: Notify,
}

impl Cutting {
    /// A store that is cut at its `nth` write.
    fn at(nth: usize, cut: Cut, store: &Arc<MemoryStore>) -> Arc<Hooked<Self>> {
        let hook = Self { cut, left: AtomicUsize::new(nth), reached: Notify::new() };
        Arc::new(Hooked { store: Arc::clone(store), hook })
    }

    async fn stand_still(&self) {
        self.reached.notify_one();
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Hook for Cutting {
    async fn before(&self, access: Access) -> Result<(), StoreError> {
        if access == Access::Write {
            let left =
                self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            // A kill takes all drivers with it: nothing is written after the cut.
            if left == Err(0) || (left == Ok(1) && self.cut == Cut::Before) {
                self.stand_still().await;
            }
        }
        Ok(())
    }

    async fn after(&self, access: Access) {
        if access == Access::Write && self.left.load(Ordering::SeqCst) == 0 {
            self.stand_still().await;
        }
    }
}

/// A life with everything in it that an operator may ask for.
async fn live(daemon: &Daemon) {
    let id = daemon.registry.create(daemon.spec("web"), None).await.unwrap().id;
    daemon.does(id, Request::Start).await.unwrap();
    daemon.registry.change(id, VmPatch { autostart: Some(true) }).await.unwrap();
    let control = daemon.hypervisor.control(id);
    control.obey_power_button(true);
    daemon.does(id, Request::Pause).await.unwrap();
    daemon.does(id, Request::Resume).await.unwrap();
    daemon.does(id, Request::Stop(None)).await.unwrap();
    daemon.does(id, Request::Start).await.unwrap();
    let control = daemon.hypervisor.control(id);
    control.obey_power_button(true);
    let cold = Request::Restart { cold: true, deadline: None };
    daemon.does(id, cold).await.unwrap();
    daemon.does(id, Request::Kill).await.unwrap();
    daemon.does(id, Request::Delete).await.unwrap();
}

/// Everything that the next daemon says must be what is, and every VM must be
/// of use.
async fn check(daemon: &Daemon, what: &str) {
    let unfinished = async {
        // A deletion that was begun is gone on with.
        loop {
            let left = daemon.store.unfinished_operations().await.unwrap();
            let Some(operation) = left.first() else { return };
            assert_eq!(operation.kind, OperationKind::Delete, "{what}");
            daemon.ended(operation).await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, unfinished).await.expect("every operation ends");
    let vms = daemon.registry.list();
    for id in daemon.hypervisor.inventory().await.unwrap() {
        assert!(vms.iter().any(|vm| vm.id == id), "{what}: a stranger was made");
    }
    for vm in vms {
        let runs = daemon.hypervisor.runs(vm.id);
        let says = matches!(vm.state, State::Running | State::Paused);
        assert_eq!(runs, says, "{what}: {} {:?}", vm.state, vm.state_detail);
        assert!(
            !matches!(vm.state, State::Starting | State::Stopping | State::Deleting),
            "{what}: it stays {}",
            vm.state
        );
    }
}

async fn cut_at(nth: usize, cut: Cut) -> bool {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let hypervisor = SimulatedHypervisor::new(folder.path());
    let store = Arc::new(MemoryStore::default());
    let cutting = Cutting::at(nth, cut, &store);
    let kept: Arc<dyn Store> = cutting.clone();
    let first = async {
        live(&Daemon::start(Arc::clone(&folder), kept, hypervisor.clone()).await).await;
    };
    let was_cut = tokio::select! {
        () = cutting.hook.reached.notified() => true,
        () = first => false,
    };
    let what = format!("cut {cut:?} write {nth}");
    let acknowledged = store.unfinished_operations().await.unwrap();
    let store: Arc<dyn Store> = store;
    let next = Daemon::start(folder, Arc::clone(&store), hypervisor.clone()).await;
    check(&next, &what).await;
    for operation in acknowledged {
        let ended = store.operation(operation.id).await.unwrap().expect(&what);
        assert_ne!(ended.state, OperationState::Running, "{what}");
    }
    // And a third finds the same; its VMs go on to the end.
    next.registry.close().await;
    let folder = Arc::clone(&next.folder);
    let last = Daemon::start(folder, Arc::clone(&store), hypervisor.clone()).await;
    check(&last, &what).await;
    for vm in last.registry.list() {
        if !hypervisor.runs(vm.id) {
            assert_eq!(last.does(vm.id, Request::Start).await, Ok(()), "{what}");
        }
        assert_eq!(last.does(vm.id, Request::Kill).await, Ok(()), "{what}");
        assert_eq!(last.does(vm.id, Request::Delete).await, Ok(()), "{what}");
    }
    assert!(store.vms().await.unwrap().is_empty(), "{what}");
    was_cut
}

#[tokio::test]
async fn whenever_the_daemon_is_killed_the_next_one_tells_the_truth() {
    for cut in [Cut::Before, Cut::After] {
        let mut nth = 1;
        while cut_at(nth, cut).await {
            nth += 1;
        }
        assert!(nth > 15, "a whole life writes more than {nth} times");
    }
}

#[tokio::test]
async fn a_run_that_nobody_wrote_down_is_told_by_its_end() {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let hypervisor = SimulatedHypervisor::new(folder.path());
    let store = Arc::new(MemoryStore::default());
    // The boot, created, starting, and then the write of what runs.
    let cutting = Cutting::at(4, Cut::Before, &store);
    let first = Daemon::start(Arc::clone(&folder), cutting.clone(), hypervisor.clone()).await;
    tokio::select! {
        () = cutting.hook.reached.notified() => {}
        () = live(&first) => panic!("it was to be cut"),
    }
    let id = hypervisor.inventory().await.unwrap()[0];
    hypervisor.control(id).exit(Exit::Status(0)).await;
    let next = Daemon::start(folder, store, hypervisor).await;
    let said = "while the daemon was away: the machine ended by itself";
    assert_eq!(next.state(id), (State::Stopped, Some(said.to_owned())));
}

#[tokio::test]
async fn a_start_that_was_cut_before_the_first_instruction_goes_on() {
    let mut seen = Vec::new();
    for nth in 1..25 {
        let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
        let hypervisor = SimulatedHypervisor::new(folder.path());
        let store = Arc::new(MemoryStore::default());
        let cutting = Cutting::at(nth, Cut::Before, &store);
        let kept: Arc<dyn Store> = cutting.clone();
        let first = async {
            live(&Daemon::start(Arc::clone(&folder), kept, hypervisor.clone()).await).await;
        };
        tokio::select! {
            () = cutting.hook.reached.notified() => {}
            () = first => break,
        }
        let Some(vm) = store.vms().await.unwrap().pop() else { continue };
        if vm.state != State::Starting || !hypervisor.runs(vm.id) {
            continue;
        }
        // QEMU is started with its processors at rest, and let run then.
        let Adoption::Running(running, _) = hypervisor.adopt(vm.id).await else {
            panic!("it runs");
        };
        running.machine.pause().await.unwrap();
        drop(running);
        let operation = store.unfinished_operations().await.unwrap().remove(0);
        let next = Daemon::start(folder, store, hypervisor).await;
        assert_eq!(next.state(vm.id), (State::Running, None), "{operation:?}");
        assert_eq!(next.ended(&operation).await, Ok(()), "{operation:?}");
        seen.push(operation.kind);
    }
    assert_eq!(seen, [OperationKind::Start, OperationKind::Start, OperationKind::Restart]);
}

#[tokio::test]
async fn an_end_that_was_written_down_is_cleared_away_by_the_next_daemon() {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let hypervisor = SimulatedHypervisor::new(folder.path());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let first = Daemon::start(Arc::clone(&folder), Arc::clone(&store), hypervisor.clone()).await;
    let id = first.registry.create(first.spec("web"), None).await.unwrap().id;
    first.registry.close().await;
    let record = store.vms().await.unwrap().remove(0);
    let launch = Launch { id, spec: record.spec, machine_type: record.machine_type };
    drop(hypervisor.start(&launch).await.unwrap());
    hypervisor.control(id).exit(Exit::Status(0)).await;
    let next = Daemon::start(folder, store, hypervisor.clone()).await;
    assert_eq!(next.state(id), (State::Created, None));
    next.registry.close().await;
    assert!(matches!(hypervisor.adopt(id).await, Adoption::Gone(None)), "its run is left");
}

/// A start that was acknowledged, and a machine that cannot be identified.
async fn in_doubt() -> (Daemon, Operation) {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let hypervisor = SimulatedHypervisor::new(folder.path());
    let store = Arc::new(MemoryStore::default());
    let cutting = Cutting::at(4, Cut::Before, &store);
    let first = Daemon::start(Arc::clone(&folder), cutting.clone(), hypervisor.clone()).await;
    tokio::select! {
        () = cutting.hook.reached.notified() => {}
        () = live(&first) => panic!("it was to be cut"),
    }
    let operation = store.unfinished_operations().await.unwrap().remove(0);
    hypervisor.control(operation.vm).lose_track();
    (Daemon::start(folder, store, hypervisor).await, operation)
}

#[tokio::test(start_paused = true)]
async fn an_operation_waits_for_its_vm_to_be_identified() {
    let (daemon, operation) = in_doubt().await;
    let now = daemon.store.operation(operation.id).await.unwrap().unwrap();
    assert_eq!(now.state, OperationState::Running);
    daemon.hypervisor.control(operation.vm).exit(Exit::Status(1)).await;
    let error = daemon.ended(&operation).await.unwrap_err();
    assert!(error.ends_with("the VM is failed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_operation_does_not_wait_for_ever_for_its_vm_to_be_identified() {
    let (daemon, operation) = in_doubt().await;
    let waited = daemon.registry.wait_operation(operation.id, 6 * LIMIT).await.unwrap();
    let error = waited.and_then(|operation| operation.error).expect("it failed");
    assert!(error.ends_with("the VM is starting"), "{error}");
    let (_, detail) = daemon.state(operation.vm);
    assert!(detail.is_some_and(|detail| detail.contains("could not be identified")));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_vm_without_a_driver() {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let hypervisor = SimulatedHypervisor::new(folder.path());
    let daemon = Daemon::start(folder, Arc::new(MemoryStore::default()), hypervisor).await;
    let spec = daemon.spec("web");
    {
        use futures_util::FutureExt;
        let gone = daemon.registry.create(spec, None).now_or_never();
        assert!(gone.is_none(), "the caller goes while it waits");
    }
    daemon.registry.close().await;
    let stored = daemon.store.vms().await.unwrap();
    assert_eq!(stored.len(), 1);
    assert!(daemon.registry.find("web").is_some());
}
