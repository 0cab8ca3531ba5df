//! What a guest tells is what is so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_protocol::message::Stage;
use vmm_api::guest::Guest;
use vmm_api::vm::{DiskFormat, DiskSpec, Network, NicSpec};

use crate::scene::Scene;
use crate::wait::until;

/// A disk whose size is easy to recognise.
const DISK_BYTES: u64 = 48 << 20;
/// How long the guest may take to have an address and a mounted disk.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// System, processors, memory, disks, file systems, addresses and stages of a
/// real guest.
pub async fn are_true_of_a_real_guest(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let disk = scene.folder().join("disk.raw");
    std::fs::File::create(&disk)?.set_len(DISK_BYTES)?;
    let mut spec = scene.spec("web");
    spec.vcpus = 2;
    spec.disks = vec![DiskSpec {
        path: disk.display().to_string(),
        format: DiskFormat::Raw,
        read_only: false,
    }];
    spec.nics = vec![NicSpec { network: Network::Isolated, mac: Some("52:54:00:12:34:56".into()) }];
    scene.boot(&client, &spec).await?;

    let guest = until("an address and a mounted disk", SETTLE_LIMIT, || async {
        let guest = client.guest("web").await?;
        let settled = addresses(&guest).is_some_and(|addresses| !addresses.is_empty())
            && guest.facts.filesystems.as_ref().is_some_and(|all| all.contains_key("/data"))
            && guest.facts.cpu.as_ref().is_some_and(|cpu| cpu.usage_percent.is_some());
        Ok(settled.then_some(guest))
    })
    .await?;

    let facts = &guest.facts;
    let os = facts.os.as_ref().context("os")?;
    ensure!(os.hostname == "web" && os.family == "linux", "{os:?}");
    ensure!(os.kernel_release.contains("cloud-amd64"), "{os:?}");
    let cpu = facts.cpu.as_ref().context("cpu")?;
    ensure!(cpu.online == 2, "{cpu:?}");
    ensure!(cpu.usage_percent.is_some_and(|usage| (0.0..=100.0).contains(&usage)), "{cpu:?}");
    let memory = facts.memory.as_ref().context("memory")?;
    let whole = spec.memory_mib << 20;
    ensure!((whole / 2..=whole).contains(&memory.total_bytes), "{memory:?}");
    ensure!(memory.available_bytes < memory.total_bytes, "{memory:?}");
    let vda = facts.disks.as_ref().and_then(|disks| disks.get("vda")).context("vda")?;
    ensure!(vda.size_bytes == DISK_BYTES && vda.written_bytes > 0, "{vda:?}");
    let data = facts.filesystems.as_ref().and_then(|all| all.get("/data")).context("/data")?;
    ensure!(data.device == "/dev/vda" && data.total_bytes <= DISK_BYTES, "{data:?}");
    let eth0 = facts.interfaces.as_ref().and_then(|all| all.get("eth0")).context("eth0")?;
    ensure!(eth0.up && eth0.mac.as_deref() == Some("52:54:00:12:34:56"), "{eth0:?}");
    ensure!(eth0.addresses.iter().any(|address| address.starts_with("10.0.2.15/")), "{eth0:?}");
    ensure!(facts.uptime.as_ref().is_some_and(|uptime| uptime.uptime_s < 600), "{facts:?}");
    ensure!(facts.load.is_some(), "{facts:?}");

    ensure!(guest.summary.age_s.is_some_and(|age| age < 5.0), "{:?}", guest.summary);
    let stages: Vec<Stage> = guest.boot.iter().map(|lifecycle| lifecycle.stage).collect();
    for stage in [Stage::KernelStarted, Stage::AgentStarted, Stage::AddressAcquired] {
        ensure!(stages.contains(&stage), "{stage:?} is not among {stages:?}");
    }
    Ok(())
}

fn addresses(guest: &Guest) -> Option<&Vec<String>> {
    Some(&guest.facts.interfaces.as_ref()?.get("eth0")?.addresses)
}
