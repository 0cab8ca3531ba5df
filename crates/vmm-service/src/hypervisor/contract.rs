//! What every hypervisor does, real or not: the tests that all pass.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;
use vmm_api::vm::{DiskFormat, DiskSpec, VmSpec};

use super::{
    Adoption, Exit, Hypervisor, Launch, MachineError, MachineEvent, RunState, Running, StartError,
};

/// Generous: the host that runs the tests may be busy with others.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// A hypervisor with nothing in it, and a daemon in front.
pub(super) trait Subject: Sized {
    async fn new() -> Self;
    fn hypervisor(&self) -> &dyn Hypervisor;
    fn machine_type(&self) -> String;
    /// The daemon dies, and another takes its place.
    async fn restart_daemon(&mut self);

    /// A machine that boots nothing but its firmware.
    fn launch(&self) -> Launch {
        launch(empty_disk(), self.machine_type())
    }
}

/// A machine with this disk.
pub(super) fn launch(disk: &std::path::Path, machine_type: String) -> Launch {
    let disk =
        DiskSpec { path: disk.to_str().unwrap().into(), format: DiskFormat::Raw, read_only: true };
    let spec = VmSpec {
        name: "test,process=evil".into(),
        vcpus: 1,
        memory_mib: 32,
        kernel: None,
        initrd: None,
        cmdline: None,
        disks: vec![disk],
        nics: vec![],
        labels: std::collections::BTreeMap::new(),
        autostart: false,
    };
    Launch { id: Uuid::new_v4(), spec, machine_type }
}

fn empty_disk() -> &'static std::path::Path {
    static DISK: OnceLock<tempfile::TempPath> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(1 << 20).unwrap();
        disk.into_temp_path()
    })
}

/// Waits for an event; returns those before it.
pub(super) async fn until(running: &mut Running, wanted: &MachineEvent) -> Vec<MachineEvent> {
    let mut before = Vec::new();
    loop {
        match timeout(SOON, running.events.recv()).await {
            Ok(Some(event)) if event == *wanted => return before,
            Ok(Some(event)) => before.push(event),
            other => panic!("{wanted:?} did not come after {before:?}: {other:?}"),
        }
    }
}

/// Adopts a machine that must run.
pub(super) async fn adopted(hypervisor: &dyn Hypervisor, id: Uuid) -> (Running, RunState) {
    match hypervisor.adopt(id).await {
        Adoption::Running(running, state) => (running, state),
        Adoption::Gone(exit) => panic!("it is gone: {exit:?}"),
        Adoption::Unknown(why) => panic!("it is unknown: {why}"),
    }
}

/// Kills a machine and waits for its end.
pub(super) async fn kill(running: &mut Running) {
    running.machine.kill().await.unwrap();
    until(running, &MachineEvent::Exited(Exit::Signal(9))).await;
    assert!(running.events.recv().await.is_none(), "the exit is the last event");
}

pub(super) async fn a_machine_lives_and_dies<S: Subject>() {
    let subject = S::new().await;
    let (hypervisor, launch) = (subject.hypervisor(), subject.launch());
    let mut running = hypervisor.start(&launch).await.unwrap();
    assert!(running.machine.pid().is_some());
    assert!(running.machine.guest_channel().is_some());
    assert_eq!(hypervisor.inventory().await.unwrap(), [launch.id]);
    assert_eq!(running.machine.status().await.unwrap(), RunState::Running);

    running.machine.pause().await.unwrap();
    running.machine.pause().await.unwrap();
    assert_eq!(running.machine.status().await.unwrap(), RunState::Paused);
    until(&mut running, &MachineEvent::Paused).await;
    running.machine.resume().await.unwrap();
    running.machine.resume().await.unwrap();
    until(&mut running, &MachineEvent::Resumed).await;
    running.machine.reset().await.unwrap();
    assert!(
        !until(&mut running, &MachineEvent::Reset).await.contains(&MachineEvent::Paused),
        "paused once"
    );
    running.machine.press_power_button().await.unwrap();

    kill(&mut running).await;
    assert_eq!(running.machine.pid(), None);
    assert!(matches!(running.machine.kill().await, Err(MachineError::Gone)));
    assert!(matches!(running.machine.pause().await, Err(MachineError::Gone)));
}

pub(super) async fn what_is_left_is_told_and_removed<S: Subject>() {
    let subject = S::new().await;
    let (hypervisor, launch) = (subject.hypervisor(), subject.launch());
    assert!(hypervisor.console_log(launch.id).is_empty());
    let mut running = hypervisor.start(&launch).await.unwrap();
    assert!(matches!(hypervisor.clear(launch.id).await, Err(MachineError::Unidentified(_))));
    assert!(matches!(hypervisor.purge(launch.id).await, Err(MachineError::Unidentified(_))));
    assert_eq!(running.machine.status().await.unwrap(), RunState::Running);
    kill(&mut running).await;

    assert!(matches!(hypervisor.adopt(launch.id).await, Adoption::Gone(Some(Exit::Signal(9)))));
    hypervisor.clear(launch.id).await.unwrap();
    hypervisor.clear(launch.id).await.unwrap();
    assert!(matches!(hypervisor.adopt(launch.id).await, Adoption::Gone(None)));
    assert!(!hypervisor.console_log(launch.id).is_empty(), "the console log survives");
    assert_eq!(hypervisor.inventory().await.unwrap(), [launch.id]);

    let mut again = hypervisor.start(&launch).await.unwrap();
    kill(&mut again).await;
    hypervisor.purge(launch.id).await.unwrap();
    hypervisor.purge(launch.id).await.unwrap();
    assert!(hypervisor.console_log(launch.id).is_empty());
    assert!(hypervisor.inventory().await.unwrap().is_empty());
}

pub(super) async fn a_machine_outlives_the_daemon<S: Subject>() {
    let mut subject = S::new().await;
    let launch = subject.launch();
    let running = subject.hypervisor().start(&launch).await.unwrap();
    running.machine.pause().await.unwrap();
    let pid = running.machine.pid();
    drop(running);
    subject.restart_daemon().await;
    let (running, state) = adopted(subject.hypervisor(), launch.id).await;
    assert_eq!(state, RunState::Paused);
    assert_eq!(running.machine.pid(), pid);
    running.machine.resume().await.unwrap();
    drop(running);
    subject.restart_daemon().await;
    let (mut running, state) = adopted(subject.hypervisor(), launch.id).await;
    assert_eq!(state, RunState::Running);
    kill(&mut running).await;
    subject.restart_daemon().await;
    assert!(matches!(
        subject.hypervisor().adopt(launch.id).await,
        Adoption::Gone(Some(Exit::Signal(9)))
    ));
}

pub(super) async fn a_machine_is_started_once<S: Subject>() {
    let subject = S::new().await;
    let (hypervisor, launch) = (subject.hypervisor(), subject.launch());
    let mut running = hypervisor.start(&launch).await.unwrap();
    assert!(matches!(hypervisor.start(&launch).await, Err(StartError::Refused(_))));
    assert_eq!(running.machine.status().await.unwrap(), RunState::Running);
    kill(&mut running).await;
}

pub(super) async fn a_start_that_can_boot_nothing_is_refused<S: Subject>() {
    let subject = S::new().await;
    let hypervisor = subject.hypervisor();
    let mut nothing = subject.launch();
    nothing.spec.disks.clear();
    let mut no_kernel = subject.launch();
    no_kernel.spec.kernel = Some("/nowhere/vmlinuz".into());
    let mut no_disk = subject.launch();
    no_disk.spec.disks[0].path = "/nowhere/disk.raw".into();
    for (launch, word) in
        [(nothing, "kernel"), (no_kernel, "/nowhere/vmlinuz"), (no_disk, "/nowhere/disk.raw")]
    {
        match hypervisor.start(&launch).await {
            Err(StartError::Refused(why)) => assert!(why.contains(word), "{why}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it started"),
        }
        assert!(hypervisor.inventory().await.unwrap().is_empty());
        assert!(matches!(hypervisor.adopt(launch.id).await, Adoption::Gone(None)));
    }
}

pub(super) async fn nobody_is_gone_without_a_trace<S: Subject>() {
    let subject = S::new().await;
    let (hypervisor, id) = (subject.hypervisor(), Uuid::new_v4());
    assert!(matches!(hypervisor.adopt(id).await, Adoption::Gone(None)));
    hypervisor.clear(id).await.unwrap();
    hypervisor.purge(id).await.unwrap();
    assert!(hypervisor.console_log(id).is_empty());
}

/// The contract's tests, for one hypervisor.
macro_rules! contract {
    ($subject:ty) => {
        $crate::hypervisor::contract::contract!($subject;
            a_machine_lives_and_dies what_is_left_is_told_and_removed a_machine_outlives_the_daemon
            a_machine_is_started_once a_start_that_can_boot_nothing_is_refused nobody_is_gone_without_a_trace);
    };
    ($subject:ty; $($test:ident)+) => {
        $(
            #[tokio::test]
            async fn $test() {
                $crate::hypervisor::contract::$test::<$subject>().await;
            }
        )+
    };
}
pub(super) use contract;
