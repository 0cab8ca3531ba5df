//! What must be true whatever was killed: of all VMs, of the processes on the
//! host, and of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;
use uuid::Uuid;
use vmm_api::client::{Client, ListQuery};
use vmm_api::vm::{State, Vm};

use super::operation::is_down;
use super::processes::Processes;
use crate::scene::Scene;

/// How long everything may take to be in order again. The daemon looks again at
/// what it could not identify for up to ten seconds, and a machine that was
/// stopped a moment before the kill takes that long to give up.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks: a look reads all of `/proc`.
const INTERVAL: Duration = Duration::from_millis(30);

/// What lies in the daemon's folder beside a database and its helpers.
const DAEMONS: [&str; 4] = ["vmm.sock", "vmm.sock.lock", "daemon.log", "vms"];

/// What lies beside the VMs' folders: what guests run on, and that this boot's
/// autostart was done.
const BESIDE_VMS: [&str; 2] = ["accel.json", "autostarted"];

/// All VMs by their id.
pub type Vms = BTreeMap<Uuid, Vm>;

/// Waits until everything is in order, and gives all VMs as they are then.
/// `ever` are all VMs that there ever were.
pub async fn settled(scene: &Scene, client: &Client, ever: &BTreeSet<Uuid>) -> Result<Vms> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut looks = tokio::time::interval(INTERVAL);
    loop {
        looks.tick().await;
        let before = list(client).await?;
        let processes = Processes::look(&scene.settings().vms())?;
        none_twice(&processes, ever)?;
        // What changes while it is looked at is looked at again.
        let vms = list(client).await?;
        let wrong = wrong(&vms, &processes, ever, &scene.settings().folder)?;
        if wrong.is_empty() && same(&before, &vms) {
            return Ok(vms);
        }
        ensure!(
            Instant::now() < deadline,
            "not in order within {} s: {}",
            SETTLE_LIMIT.as_secs(),
            wrong.join("; ")
        );
    }
}

/// All VMs. Fails when one is listed twice.
async fn list(client: &Client) -> Result<Vms> {
    let listed = client.list_all(&ListQuery::default()).await?;
    let (count, names) = (listed.len(), listed.iter().map(|vm| vm.spec.name.clone()));
    let names: BTreeSet<String> = names.collect();
    let vms: Vms = listed.into_iter().map(|vm| (vm.id, vm)).collect();
    ensure!(vms.len() == count && names.len() == count, "a VM is listed twice: {vms:?}");
    Ok(vms)
}

fn same(one: &Vms, other: &Vms) -> bool {
    let states = |vms: &Vms| vms.values().map(|vm| (vm.id, vm.state, vm.pid)).collect::<Vec<_>>();
    states(one) == states(other)
}

/// Two processes that run one VM are never right, not for a moment.
fn none_twice(processes: &Processes, ever: &BTreeSet<Uuid>) -> Result<()> {
    for vm in ever {
        let (machines, _) = processes.count(*vm);
        ensure!(machines <= 1, "{vm} runs {machines} times: {:?}", processes.machines);
    }
    Ok(())
}

/// Everything that is not in order.
fn wrong(
    vms: &Vms,
    processes: &Processes,
    ever: &BTreeSet<Uuid>,
    folder: &Path,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for vm in vms.values() {
        wrong.extend(wrong_with(vm, processes, &folder.join("vms"))?);
    }
    for machine in &processes.machines {
        if ever.contains(&machine.vm) && !vms.contains_key(&machine.vm) {
            wrong.push(format!("process {} runs {}, which is no VM", machine.pid, machine.vm));
        }
    }
    for keeper in &processes.keepers {
        if !vms.contains_key(&keeper.vm) {
            wrong.push(format!("process {} keeps {}, which is no VM", keeper.pid, keeper.vm));
        }
    }
    for name in names(&folder.join("vms"))? {
        let known = Uuid::try_parse(&name).is_ok_and(|id| vms.contains_key(&id));
        if !known && !BESIDE_VMS.contains(&name.as_str()) {
            wrong.push(format!("vms/{name} belongs to nobody"));
        }
    }
    for name in names(folder)? {
        if !DAEMONS.contains(&name.as_str()) && !name.starts_with("state.db") {
            wrong.push(format!("{name} in the daemon's folder belongs to nobody"));
        }
    }
    Ok(wrong)
}

fn wrong_with(vm: &Vm, processes: &Processes, folder: &Path) -> Result<Vec<String>> {
    let (name, state) = (&vm.spec.name, vm.state);
    let detail = vm.state_detail.as_deref().unwrap_or("no detail");
    let mut wrong = Vec::new();
    let counts = processes.count(vm.id);
    let files = names(&folder.join(vm.id.to_string()))?;
    if is_down(state) {
        if counts != (0, 0) {
            wrong.push(format!(
                "{name} is {state} ({detail}), and {} machines and {} keepers run",
                counts.0, counts.1
            ));
        }
        let logs = |file: &String| file == "console.log" || file == "console.log.1";
        if !files.iter().all(logs) {
            wrong.push(format!("{name} is {state}, and of its run is left: {files:?}"));
        }
        if vm.pid.is_some() {
            wrong.push(format!("{name} is {state} with a process, {:?}", vm.pid));
        }
        if state == State::Failed && vm.state_detail.is_none() {
            wrong.push(format!("{name} failed, and nothing says why"));
        }
    } else if matches!(state, State::Running | State::Paused) {
        if counts != (1, 1) {
            wrong.push(format!(
                "{name} is {state} ({detail}), and {} machines and {} keepers run",
                counts.0, counts.1
            ));
        }
        if vm.pid.is_none() || vm.pid != processes.machine(vm.id) {
            let real = processes.machine(vm.id);
            wrong.push(format!("{name} says that it runs as {:?}, and it is {real:?}", vm.pid));
        }
        if detail.contains("keeper is gone") || detail.contains("could not be identified") {
            wrong.push(format!("{name} is {state}: {detail}"));
        }
    } else {
        wrong.push(format!("{name} is {state}: {detail}"));
    }
    Ok(wrong)
}

/// The names in a folder; none when it is not there.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// A VM that nothing was done to is exactly as it was.
pub fn untouched(before: &Vm, now: Option<&Vm>) -> Result<()> {
    let name = &before.spec.name;
    let now = now.with_context(|| format!("{name} is lost"))?;
    let part = |vm: &Vm| {
        // A run that goes on may forget why it was paused long ago.
        let detail = vm.state_detail.clone().filter(|_| is_down(vm.state));
        (vm.state, vm.pid, vm.state_changed_at, detail)
    };
    ensure!(
        part(before) == part(now),
        "nothing was done to {name}, which was {:?} and is {:?}",
        part(before),
        part(now)
    );
    whole(before, now)
}

/// Whatever was done to a VM, it is what was asked for.
pub fn whole(before: &Vm, now: &Vm) -> Result<()> {
    ensure!(
        before.spec == now.spec && before.created_at == now.created_at && before.id == now.id,
        "what was asked for is another: {before:?} is now {now:?}"
    );
    Ok(())
}
