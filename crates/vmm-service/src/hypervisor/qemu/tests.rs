//! Machines under a real QEMU, and what can go wrong with them.

use std::time::Duration;

use tempfile::TempDir;
use vmm_api::vm::{DiskFormat, DiskSpec, VmSpec};

use super::super::MachineEvent;
use super::*;
use crate::sys::confine::User;

/// Where Debian's and Ubuntu's package puts it.
pub(super) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Generous: the machine that runs the tests may be busy with others.
const SOON: Duration = Duration::from_secs(20);

/// A user for what is started without a pool.
pub(super) fn own_user() -> User {
    User { uid: 1_900_009_998, gid: 1_900_009_998, groups: vec![] }
}

struct Lab {
    dir: TempDir,
    hypervisor: QemuHypervisor,
    shutdown: CancellationToken,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hypervisor, shutdown) = open(&dir).await;
        Self { dir, hypervisor, shutdown }
    }

    fn launch(&self) -> Launch {
        let disk = self.dir.path().join("disk.raw");
        std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        let spec = VmSpec {
            name: "test,readonly=off".into(),
            vcpus: 1,
            memory_mib: 64,
            kernel: None,
            initrd: None,
            cmdline: None,
            disks: vec![DiskSpec {
                path: disk.to_str().unwrap().into(),
                format: DiskFormat::Raw,
                read_only: false,
            }],
            nics: vec![],
            labels: Default::default(),
        };
        Launch { id: Uuid::new_v4(), spec, machine_type: self.hypervisor.default_machine_type() }
    }
}

async fn open(dir: &TempDir) -> (QemuHypervisor, CancellationToken) {
    let shutdown = CancellationToken::new();
    let config = QemuConfig {
        vm_dir: dir.path().join("vms"),
        accel: config::AccelChoice::Tcg,
        ..Default::default()
    };
    let opened = QemuHypervisor::open(&config, TaskTracker::new(), shutdown.clone()).await;
    let mut hypervisor =
        opened.unwrap_or_else(|error| panic!("these tests run real machines: {error}"));
    hypervisor.timing = Timing {
        ping: Duration::from_millis(100),
        silence: Duration::from_millis(400),
        handshake: SOON,
    };
    (hypervisor, shutdown)
}

async fn until(running: &mut Running, wanted: &MachineEvent) -> Vec<MachineEvent> {
    let mut before = Vec::new();
    loop {
        match timeout(SOON, running.events.recv()).await {
            Ok(Some(event)) if event == *wanted => return before,
            Ok(Some(event)) => before.push(event),
            other => panic!("{wanted:?} did not come after {before:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_machine_starts_is_asked_and_dies() {
    let lab = Lab::new().await;
    let launch = lab.launch();
    let begun = std::time::Instant::now();
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    eprintln!("started in {:?}", begun.elapsed());
    assert_eq!(running.machine.status().await.unwrap(), RunState::Running);
    running.machine.pause().await.unwrap();
    assert_eq!(running.machine.status().await.unwrap(), RunState::Paused);
    until(&mut running, &MachineEvent::Paused).await;
    running.machine.resume().await.unwrap();
    until(&mut running, &MachineEvent::Resumed).await;
    running.machine.reset().await.unwrap();
    until(&mut running, &MachineEvent::Reset).await;
    assert!(matches!(lab.hypervisor.clear(launch.id).await, Err(MachineError::Unidentified(_))));
    running.machine.kill().await.unwrap();
    until(&mut running, &MachineEvent::Exited(Exit::Signal(9))).await;
    assert!(running.events.recv().await.is_none());
    assert_eq!(running.machine.pid(), None);
    assert!(matches!(running.machine.kill().await, Err(MachineError::Gone)));
    lab.hypervisor.clear(launch.id).await.unwrap();
}
