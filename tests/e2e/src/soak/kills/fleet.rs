//! The VMs that are there to be harmed, and how each is brought into the state
//! that an operation needs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use uuid::Uuid;
use vmm_api::client::Client;
use vmm_api::vm::{DiskFormat, DiskSpec, Network, NicSpec, State, Vm, VmSpec};

use super::operation::{Kind, Needs, is_down};
use super::truth::Vms;
use crate::scene::{Scene, connected, succeeded};

/// The VM with a real guest and its agent in it.
pub const GUEST: &str = "guest";
/// VMs that operations are played with.
const PLAYED: [&str; 4] = ["p1", "p2", "p3", "p4"];
/// The VM that is never touched, with something in every field.
const IDLE: &str = "idle";
/// How many VMs that came by an operation there may be before one must go.
const MOST_MADE: usize = 6;

/// Makes every VM that is there from the beginning, and starts most.
pub async fn assemble(scene: &Scene, client: &Client, with_guest: bool) -> Result<()> {
    for name in PLAYED {
        let spec = blank(scene, name)?;
        ensure!(client.create(&spec).await?.spec == spec, "{name} is not what was asked for");
    }
    for name in &PLAYED[1..] {
        succeeded(client, client.start(name).await?).await?;
    }
    client.create(&full(scene, IDLE, &mut Rng::with_seed(0))?).await?;
    if with_guest {
        scene.boot(client, &scene.spec(GUEST)).await?;
    }
    Ok(())
}

/// A machine that finds nothing to boot, and idles in its firmware.
fn blank(scene: &Scene, name: &str) -> Result<VmSpec> {
    let disk = |which: &str, read_only| {
        let path = scene.folder().join(format!("{name}.{which}"));
        std::fs::File::create(&path)?.set_len(1 << 20)?;
        let path = path.display().to_string();
        anyhow::Ok(DiskSpec { path, format: DiskFormat::Raw, read_only })
    };
    Ok(VmSpec {
        kernel: None,
        initrd: None,
        cmdline: None,
        memory_mib: 64,
        disks: vec![disk("first", false)?, disk("second", true)?],
        labels: BTreeMap::from([("made-for".to_owned(), name.to_owned())]),
        ..scene.spec(name)
    })
}

/// The same with something in every field there is.
fn full(scene: &Scene, name: &str, random: &mut Rng) -> Result<VmSpec> {
    let mac = format!("52:54:00:{:02x}:{:02x}:{:02x}", random.u8(..), random.u8(..), random.u8(..));
    let blank = blank(scene, name)?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(VmSpec {
        vcpus: random.u32(1..=u32::try_from(processors)?),
        memory_mib: random.u64(64..=512),
        autostart: random.bool(),
        nics: vec![
            NicSpec { network: Network::Isolated, mac: Some(mac) },
            NicSpec { network: Network::Passt, mac: None },
        ],
        disks: blank.disks,
        labels: BTreeMap::from([("tier".to_owned(), random.u32(..).to_string())]),
        ..scene.spec_with(name, "quiet lab.comma=a,b")
    })
}

/// A VM that is to be made in a round: some to be run, some with every field.
pub fn new_vm(scene: &Scene, round: u64, random: &mut Rng) -> Result<VmSpec> {
    let name = format!("made-{round}");
    if random.bool() { blank(scene, &name) } else { full(scene, &name, random) }
}

/// What of an operation is played: a VM too many becomes one less.
pub fn fitting(kind: Kind, vms: &Vms) -> Kind {
    let made = vms.values().filter(|vm| is_made(vm)).count();
    match kind {
        Kind::Create if made >= MOST_MADE => Kind::Delete,
        Kind::Delete if made == 0 => Kind::Create,
        kind => kind,
    }
}

/// Chooses the VM for an operation: one that is in the right state, if there
/// is one, and else any.
pub fn target(kind: Kind, vms: &Vms, random: &mut Rng) -> Result<Uuid> {
    let needs = kind.needs().context("it begins without a VM")?;
    let can = |vm: &&Vm| if kind == Kind::Delete { is_made(vm) } else { is_played(vm) };
    let all: Vec<&Vm> = vms.values().filter(can).collect();
    let right: Vec<&Vm> = all.iter().copied().filter(|vm| needs.is_met_by(vm.state)).collect();
    let from = if right.is_empty() { &all } else { &right };
    random.choice(from).map(|vm| vm.id).context("there is no VM for it")
}

/// Brings a VM into the state that an operation needs.
pub async fn arrange(scene: &Scene, client: &Client, vm: Uuid, needs: Needs) -> Result<()> {
    let id = vm.to_string();
    let Vm { state, spec, .. } = client.vm(&id).await?;
    let ask = async |kind: Kind| succeeded(client, kind.ask(client, &id).await?).await;
    if needs == Needs::Down {
        return if is_down(state) { Ok(()) } else { ask(Kind::Kill).await.map(drop) };
    }
    if is_down(state) {
        scene.start(client, &id).await?;
    }
    match (needs, state) {
        (Needs::Running, State::Paused) => ask(Kind::Resume).await.map(drop)?,
        (Needs::Paused, State::Paused) | (Needs::Running | Needs::Down, _) => {}
        (Needs::Paused, _) => ask(Kind::Pause).await.map(drop)?,
    }
    if spec.name == GUEST {
        connected(client, &id).await?;
    }
    Ok(())
}

/// A VM that runs and is not the target; one is started when none does.
pub async fn other(scene: &Scene, client: &Client, vms: &Vms, random: &mut Rng) -> Result<Uuid> {
    let played: Vec<&Vm> = vms.values().filter(|vm| is_played(vm)).collect();
    let running: Vec<Uuid> =
        played.iter().filter(|vm| !is_down(vm.state)).map(|vm| vm.id).collect();
    if let Some(vm) = random.choice(&running) {
        return Ok(*vm);
    }
    let vm = random.choice(&played).map(|vm| vm.id).context("there is no VM")?;
    arrange(scene, client, vm, Needs::Running).await?;
    Ok(vm)
}

fn is_played(vm: &Vm) -> bool {
    PLAYED.contains(&vm.spec.name.as_str())
}

fn is_made(vm: &Vm) -> bool {
    vm.spec.name.starts_with("made-")
}
