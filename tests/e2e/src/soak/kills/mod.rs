//! `kill -9` at uniformly random moments. What was acknowledged stays true.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmm_api::operation::OperationState;
use vmm_api::vm::{DiskFormat, DiskSpec, State, VmSpec};

use super::Plan;
use crate::scene::Scene;

/// How many kills a full run has.
pub const ROUNDS: u64 = 1000;

/// The longest that a machine without a guest takes to start.
const START_SPAN: Duration = Duration::from_millis(600);
/// How long an operation may take to end after the daemon is back.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Kills the daemon while a machine starts.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let mut client = scene.start_daemon().await?;
    let disk = scene.folder().join("disk");
    std::fs::File::create(&disk)?.set_len(1 << 20)?;
    let disks = vec![DiskSpec {
        path: disk.display().to_string(),
        format: DiskFormat::Raw,
        read_only: true,
    }];
    let spec = VmSpec {
        kernel: None,
        initrd: None,
        cmdline: None,
        memory_mib: 64,
        disks,
        ..scene.spec("web")
    };
    let id = client.create(&spec).await?.id.to_string();
    for round in plan.rounds.clone() {
        let mut random = plan.begin(round);
        let operation = client.start(&id).await?;
        tokio::time::sleep(START_SPAN.mul_f64(random.f64())).await;
        scene.kill_daemon()?;
        plan.count("kills of the daemon");
        client = scene.start_daemon().await?;
        let ended = client.wait(operation, END_LIMIT).await?;
        let vm = client.vm(&id).await?;
        ensure!(vm.spec.disks == spec.disks, "{vm:?}");
        if ended.state == OperationState::Succeeded {
            ensure!(vm.state == State::Running, "it was started: {vm:?}");
        }
        if matches!(vm.state, State::Running | State::Paused) {
            let killed = client.wait(client.kill(&id).await?, END_LIMIT).await?;
            ensure!(killed.state == OperationState::Succeeded, "{killed:?}");
        }
    }
    Ok(())
}
