//! The host's own faults, with machines that must run on through all of them.

use anyhow::{Context, Result, ensure};
use vmm_api::vm::State;

use crate::scene::{Scene, connected};
use crate::soak::host_faults::{self, Fault};
use crate::soak::{self, state_damage};

/// How many wounds: two of them are shown to the daemon itself.
const WOUNDS: u64 = 40;

/// The state's files, damaged anywhere: refused with what to do, or read as they
/// were.
pub async fn a_damaged_state_is_refused_or_read_as_it_was(scene: Scene) -> Result<()> {
    soak::short(scene, WOUNDS, state_damage::run).await
}

/// The state is gone while a machine runs: nobody begins with an empty one. When
/// it is back, so is the VM.
pub async fn a_lost_state_is_not_begun_anew(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let web = scene.boot(&client, &scene.spec("web")).await?;
    scene.stop_daemon().await?;
    let folder = scene.settings().folder;
    let state = folder.join("state.db");
    let kept = folder.join("kept");
    std::fs::rename(&state, &kept)?;
    for (gone, said) in [("state.db", "is missing, but its journal"), ("-journal", "knows no VM")] {
        if gone == "-journal" {
            std::fs::remove_file(folder.join("state.db-journal"))?;
        }
        let error = scene.start_daemon().await.err().context("it began anew")?;
        let error = format!("{error:#}");
        ensure!(error.contains(said) && error.contains("backup"), "{error}");
    }
    std::fs::rename(&kept, &state)?;
    let client = scene.start_daemon().await?;
    let back = connected(&client, "web").await?;
    ensure!(back.state == State::Running && back.pid == web.pid, "{back:?}");
    Ok(())
}

/// A disk that is full: every change is refused, none is half-done, and all
/// works again when there is room.
pub async fn a_full_disk(scene: Scene) -> Result<()> {
    host_faults::one(scene, Fault::DiskFull).await
}

/// A disk that the kernel lets nobody write to any more.
pub async fn a_read_only_disk(scene: Scene) -> Result<()> {
    host_faults::one(scene, Fault::DiskReadOnly).await
}

/// A daemon that can open nothing more.
pub async fn out_of_descriptors(scene: Scene) -> Result<()> {
    host_faults::one(scene, Fault::NoDescriptors).await
}

/// A clock that somebody sets.
pub async fn a_clock_set_back_an_hour_and_on_a_year(scene: Scene) -> Result<()> {
    host_faults::one(scene, Fault::Clock).await
}
