//! What a crash of ours costs: nothing that was acknowledged, and no VM.

use anyhow::{Result, ensure};
use vmm_api::vm::State;

use crate::scene::{Scene, connected};

/// The next daemon finds the same QEMU, and the guest's facts go on.
pub async fn a_killed_daemon_finds_its_vms_again(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let before = scene.boot(&client, &scene.spec("web")).await?;
    let killed = scene.daemon_pid()?;
    scene.kill_daemon()?;

    let client = scene.start_daemon().await?;
    ensure!(scene.daemon_pid()? != killed);
    let after = connected(&client, "web").await?;
    ensure!(after.state == State::Running, "{:?}", after.state);
    ensure!(after.pid.is_some() && after.pid == before.pid, "{:?}", (before.pid, after.pid));
    ensure!(after.id == before.id);
    Ok(())
}
