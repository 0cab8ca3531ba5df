//! Power cuts: a host in a machine of its own, whose QEMU is killed at uniformly
//! random moments, and whose disk then loses what was not flushed. After each
//! cut the same disk is booted again, and what is found there is compared with
//! what had been acknowledged.

mod host;
mod load;
mod record;
pub mod relay;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::volatile_disk::{Cut, Disk};
use tokio::task::JoinSet;
use vmm_api::operation::{Operation, OperationKind, OperationState};
use vmm_api::vm::{State, Vm, VmList};

use super::Plan;
use crate::scene::Scene;
use crate::wait::until;
use host::{Host, Link, NoAnswer, Parts, decode};
use load::Operator;
use record::{Record, Rest, check_operation};

/// How many cuts a full run has.
pub const ROUNDS: u64 = 50;

/// How many operators work at a time.
const OPERATORS: usize = 4;
/// The span of their work within which the power goes: long enough that a VM is
/// started and ended in it.
const WORK_SPAN: Duration = Duration::from_secs(8);
/// The span of the daemon's start within which the power goes again.
const START_SPAN: Duration = Duration::from_secs(3);
/// How long the daemon may take to end what was under way.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How many acknowledged creations are repeated after each cut.
const REPEATED: usize = 4;
/// How many of the last deletions are asked for after each cut.
const DELETIONS: usize = 8;
/// From how many cuts on one must have lost something: one alone may by chance
/// come when everything is flushed.
const SOME: u64 = 10;

/// What is looked at after a cut: machines and their keepers, sockets, and what
/// lies beside the state.
const LEFT: &str = "ps -eo args= | grep -E '^(/.*/)?(qemu-system|vmm-service keep|passt)' || true; \
    find /run /var/lib/infinibay -type s | grep -vx /run/infinibay/vmm.sock || true; \
    find /run/form-vm -mindepth 1 -maxdepth 1 -type d || true";

/// Cuts the power, again and again.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let making = scene.clone();
    let (parts, state) = tokio::task::spawn_blocking(move || {
        let parts = Parts::make(&making)?;
        let state = parts.state_disk()?;
        anyhow::Ok((parts, state))
    })
    .await??;
    let record = Record::default();
    let mut lost = 0;
    for round in plan.rounds.clone() {
        let mut random = plan.begin(round);
        let host = Host::switch_on(&parts, &state).await?;
        scene.stage().count_guest();
        let cut = if random.u8(0..5) == 0 {
            tokio::time::sleep(START_SPAN.mul_f64(random.f64())).await;
            plan.count("cuts while the daemon starts");
            host.cut(&state, &mut random).await?
        } else {
            look(&host, &record, &plan, &mut random).await?;
            plan.count("cuts during operations");
            work(host, &state, &record, &plan, &mut random).await?
        };
        plan.add("writes not flushed", cut.unflushed);
        plan.add("writes lost", cut.lost);
        plan.add("writes torn", cut.torn);
        lost += cut.lost;
    }
    let cuts = plan.rounds.end - plan.rounds.start;
    ensure!(lost > 0 || cuts < SOME, "no cut lost anything: nothing was tested");
    last_look(&parts, &state, &record, &plan).await
}

/// Has operators work, and cuts the power meanwhile.
async fn work(
    host: Host,
    state: &Disk,
    record: &Record,
    plan: &Plan,
    random: &mut fastrand::Rng,
) -> Result<Cut> {
    let (mut operators, running) = (JoinSet::new(), load::places());
    for number in 0..OPERATORS {
        let operator = Operator {
            name: format!("op{number}-"),
            link: host.link().clone(),
            record: record.clone(),
            plan: plan.clone(),
            random: random.fork(),
            running: running.clone(),
        };
        operators.spawn(operator.work());
    }
    tokio::time::sleep(WORK_SPAN.mul_f64(random.f64())).await;
    let words = host.last_words();
    let cut = host.cut(state, random).await?;
    while let Some(operator) = operators.join_next().await {
        operator?.with_context(|| format!("the console ended with:\n{words}"))?;
    }
    Ok(cut)
}

/// Compares a host that was switched on again with what was acknowledged.
async fn look(host: &Host, record: &Record, plan: &Plan, random: &mut fastrand::Rng) -> Result<()> {
    host.daemon().await?;
    let looked = async {
        let found = settled(host.link()).await?;
        look_at_operations(host.link(), record, &found, plan).await?;
        look_at_vms(record, &found, plan)?;
        repeat_creations(host.link(), record, &found, plan, random).await?;
        let left = host.link().run(LEFT).await.map_err(NoAnswer::error)?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    };
    looked.await.with_context(|| format!("the host's console ends with:\n{}", host.last_words()))
}

/// The VMs when nothing is under way any more.
async fn settled(link: &Link) -> Result<Vec<Vm>> {
    let settled =
        |vm: &Vm| !matches!(vm.state, State::Deleting | State::Starting | State::Stopping);
    until("the end of what was under way", SETTLE_LIMIT, || async {
        Ok(Some(list(link).await?).filter(|vms| vms.iter().all(settled)))
    })
    .await
}

/// Every operation that was acknowledged has ended, and as it was acknowledged.
async fn look_at_operations(link: &Link, record: &Record, found: &[Vm], plan: &Plan) -> Result<()> {
    let (known, deletions) = {
        let inner = record.inner();
        let recent = inner.deletions.len().saturating_sub(DELETIONS);
        (inner.vms.clone(), inner.deletions[recent..].to_vec())
    };
    for before in &deletions {
        check_operation(before, &operation(link, before).await?)?;
        plan.count("operations found again");
    }
    for (name, known) in known {
        let there = found.iter().any(|vm| vm.spec.name == name);
        // Of a VM that is deleted only the deletion is remembered.
        let remembered = |operation: &&Operation| there || operation.kind == OperationKind::Delete;
        for before in known.operations.iter().filter(remembered) {
            let now = operation(link, before).await?;
            check_operation(before, &now)?;
            plan.count("operations found again");
            plan.add("operations cut off", u64::from(before.ended_at.is_none()));
            if now.kind == OperationKind::Delete && now.state == OperationState::Succeeded {
                record.acknowledged(&name, &now);
            } else {
                record.told(&name, &now);
            }
        }
    }
    Ok(())
}

/// An operation when it has ended.
async fn operation(link: &Link, before: &Operation) -> Result<Operation> {
    let path = format!("/operations/{}?wait_s={}", before.id, SETTLE_LIMIT.as_secs());
    let found = link.daemon("GET", &path, None, None).await.map_err(NoAnswer::error);
    decode(found.with_context(|| format!("an acknowledged operation is lost: {before:?}"))?)
}

/// All VMs, as an operator lists them.
async fn list(link: &Link) -> Result<Vec<Vm>> {
    let told = link.run("vmmctl list -o json").await.map_err(NoAnswer::error)?;
    let list: Result<VmList, _> = serde_json::from_str(&told);
    Ok(list.with_context(|| format!("vmmctl said {told}"))?.vms)
}

/// Every VM that was acknowledged is there once, as it may be.
fn look_at_vms(record: &Record, found: &[Vm], plan: &Plan) -> Result<()> {
    let mut inner = record.inner();
    inner.check(found)?;
    plan.add("VMs found again", found.len() as u64);
    // From here on it is known what became of them.
    inner.vms.retain(|name, known| {
        let there = found.iter().find(|vm| vm.spec.name == *name);
        if let Some(vm) = there {
            known.rest = Rest::of(vm);
            known.doing = None;
        }
        there.is_some() || known.id.is_none()
    });
    Ok(())
}

/// A creation that is asked for again with its key answers with the same VM,
/// whether or not its first answer came.
async fn repeat_creations(
    link: &Link,
    record: &Record,
    found: &[Vm],
    plan: &Plan,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let mut known: Vec<_> = record.inner().vms.values().cloned().collect();
    random.shuffle(&mut known);
    let (unanswered, answered): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|known| known.id.is_none());
    for known in unanswered.into_iter().chain(answered.into_iter().take(REPEATED)) {
        let again = load::create(link, record, &known.spec, &known.key).await;
        let again = again.map_err(NoAnswer::error)?;
        let before = found.iter().find(|vm| vm.spec.name == known.spec.name);
        ensure!(
            before.is_none_or(|before| before.id == again.id) && again.spec == known.spec,
            "the key of {known:?} now stands for {again:?}"
        );
        plan.count("creations repeated");
    }
    Ok(())
}

/// After the last cut everything can be deleted, and then nothing is left.
async fn last_look(parts: &Parts, state: &Disk, record: &Record, plan: &Plan) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let host = Host::switch_on(parts, state).await?;
    look(&host, record, plan, &mut random).await?;
    let link = host.link();
    for vm in list(link).await? {
        let deletion = link.daemon("DELETE", &format!("/vms/{}", vm.id), None, None).await;
        let deletion = decode(deletion.map_err(NoAnswer::error)?)?;
        let ended = load::ended(link, deletion).await.map_err(NoAnswer::error)?;
        ensure!(ended.error.is_none(), "{vm:?} cannot be deleted: {ended:?}");
    }
    let left = list(link).await?;
    ensure!(left.is_empty(), "deleted, and still there: {left:?}");
    let left = link.run(LEFT).await.map_err(NoAnswer::error)?;
    ensure!(left.is_empty(), "left behind: {left}");
    host.cut(state, &mut random).await.map(drop)
}
