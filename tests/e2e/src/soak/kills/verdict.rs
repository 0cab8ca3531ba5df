//! What a kill may have changed, and what not.

use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::{State, Vm, VmSpec};

use super::operation::Kind;
use super::truth::{self, Vms};
use super::victims::Hit;

/// What was done in a round.
pub struct Cut {
    /// What was under way.
    pub kind: Kind,
    /// Of which VM, if it was there before.
    pub target: Option<Uuid>,
    /// Whose keeper and QEMU were to be killed.
    pub victim: Uuid,
    /// Who was killed.
    pub hit: Hit,
    /// How everything was before.
    pub before: Vms,
}

impl Cut {
    fn before(&self, vm: Uuid) -> Result<&Vm> {
        self.before.get(&vm).context("it was not there before")
    }

    /// Whether a kill could reach the operation: that of the daemon always,
    /// that of a machine when it is the target's.
    fn could_fail(&self) -> bool {
        let own = self.target == Some(self.victim);
        self.hit.daemon || own && (self.hit.keeper || self.hit.machine)
    }
}

/// VMs that had nothing to do with it are as they were; a victim that was not
/// the target is what its kill made of it; no VM is new that was not asked for.
pub fn of_bystanders(cut: &Cut, now: &Vms) -> Result<()> {
    for (id, before) in &cut.before {
        if Some(*id) == cut.target || *id == cut.victim {
            continue;
        }
        truth::untouched(before, now.get(id))?;
    }
    if cut.target != Some(cut.victim) {
        of_victim(cut, now)?;
    }
    if cut.kind != Kind::Create {
        let new = now.keys().find(|id| !cut.before.contains_key(id));
        ensure!(new.is_none(), "a VM appeared that nobody asked for: {new:?}");
    }
    Ok(())
}

/// A VM whose keeper died runs on; one whose QEMU died has failed, and says so.
pub fn of_victim(cut: &Cut, now: &Vms) -> Result<()> {
    let before = cut.before(cut.victim)?;
    if !cut.hit.machine {
        return truth::untouched(before, now.get(&cut.victim));
    }
    let now = now.get(&cut.victim).context("the victim is lost")?;
    truth::whole(before, now)?;
    ensure!(now.state == State::Failed, "its QEMU was killed, and it is {now:?}");
    Ok(())
}

/// What was answered is there; what was not may be, and is whole then.
pub fn of_creation(cut: &Cut, now: &Vms, asked: &VmSpec, made: Option<Uuid>) -> Result<()> {
    let mut new = now.values().filter(|vm| !cut.before.contains_key(&vm.id));
    let found = new.next();
    ensure!(new.next().is_none(), "more than one VM was made: {:?}", now.keys());
    match (made, found) {
        (Some(id), Some(vm)) => ensure!(vm.id == id, "{vm:?} was made, and {id} told"),
        (Some(id), None) => bail!("{id} was acknowledged and is lost"),
        (None, None) => ensure!(cut.could_fail(), "nobody was killed and nothing made"),
        (None, Some(_)) => {}
    }
    let Some(vm) = found else { return Ok(()) };
    ensure!(vm.spec == *asked, "asked for {asked:?}, made {:?}", vm.spec);
    ensure!(vm.state == State::Created, "it is {vm:?}");
    Ok(())
}

/// A refusal changes nothing; and only a machine that died has a reason for one.
pub fn of_refusal(cut: &Cut, now: &Vms, why: &str) -> Result<()> {
    let before = cut.before(cut.target.context("nobody was asked")?)?;
    ensure!(cut.hit.machine || cut.hit.keeper, "it was refused unharmed: {why}");
    let now = now.get(&before.id).with_context(|| format!("it is lost, and refused: {why}"))?;
    truth::whole(before, now)?;
    let allowed = now.state == before.state || cut.hit.machine && now.state == State::Failed;
    ensure!(allowed, "refused ({why}), and it is {now:?}");
    Ok(())
}

/// What an operation that was acknowledged says of itself is true, and one that
/// was not left the old state or brought the new.
pub fn of_operation(cut: &Cut, now: &Vms, ended: Option<&Operation>) -> Result<()> {
    let before = cut.before(cut.target.context("nobody was asked")?)?;
    let vm = now.get(&before.id);
    if let Some(vm) = vm {
        truth::whole(before, vm)?;
    }
    match ended.map(|operation| (operation.state, operation)) {
        Some((OperationState::Running, operation)) => bail!("it never ends: {operation:?}"),
        Some((OperationState::Succeeded, _)) => succeeded(cut, vm),
        Some((OperationState::Failed, operation)) => {
            let why = operation.error.as_deref().unwrap_or_default();
            ensure!(!why.is_empty(), "it failed without a reason: {operation:?}");
            ensure!(cut.could_fail(), "nobody was killed, and it failed: {why}");
            left_over(cut, before, vm).with_context(|| format!("it failed ({why})"))
        }
        None => {
            ensure!(cut.hit.daemon, "the daemon lives and did not answer");
            left_over(cut, before, vm).context("it was not answered")
        }
    }
}

/// The new state, or what the machine's death made of it.
fn succeeded(cut: &Cut, vm: Option<&Vm>) -> Result<()> {
    let Some(wanted) = cut.kind.leads_to() else {
        ensure!(vm.is_none(), "it was deleted, and is there: {vm:?}");
        return Ok(());
    };
    let vm = vm.context("it is lost")?;
    let down = wanted == State::Stopped;
    let died = cut.hit.machine && !down && vm.state == State::Failed;
    ensure!(vm.state == wanted || died, "it succeeded, and is {vm:?}");
    Ok(())
}

/// The old state or the new, or failed with a reason, which `truth` has seen.
fn left_over(cut: &Cut, before: &Vm, vm: Option<&Vm>) -> Result<()> {
    let Some(vm) = vm else {
        ensure!(cut.kind == Kind::Delete, "it is lost");
        return Ok(());
    };
    let stopped_on_the_way =
        matches!(cut.kind, Kind::ColdRestart | Kind::Stop) && vm.state == State::Stopped;
    let allowed = vm.state == before.state
        || Some(vm.state) == cut.kind.leads_to()
        || stopped_on_the_way
        || vm.state == State::Failed;
    ensure!(allowed, "it was {} and is {vm:?}", before.state);
    Ok(())
}
