//! What was acknowledged, seen from outside of the host, and what may therefore
//! be found after the power was cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;
use vmm_api::operation::{Operation, OperationKind, OperationState};
use vmm_api::vm::{State, Vm, VmSpec};

/// What a VM that went down with its host says.
const HOST_RESTARTED: &str = "the host was restarted";
/// How many operations of a VM are noted: the daemon remembers more.
const OPERATIONS: usize = 16;

/// What is known of the VMs. A handle: clones are the same record.
#[derive(Clone, Default)]
pub struct Record {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
pub struct Inner {
    /// VMs of which a creation was asked, and no deletion acknowledged, by name.
    pub vms: BTreeMap<String, Known>,
    /// Deletions that were acknowledged as done, oldest first.
    pub deletions: Vec<Operation>,
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Known {
    /// What was asked for.
    pub spec: VmSpec,
    /// The idempotency key that it was asked for with.
    pub key: String,
    /// Its id, once its creation was acknowledged.
    pub id: Option<Uuid>,
    /// How it was left by the last operation that was acknowledged as done.
    pub rest: Rest,
    /// What was asked of it since, and is not acknowledged as done.
    pub doing: Option<OperationKind>,
    /// Its operations as they were last acknowledged, oldest first.
    pub operations: Vec<Operation>,
}

/// How a VM was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Never started.
    Created,
    /// With a process.
    Up,
    /// Stopped or killed, or gone with its host.
    Down { with_host: bool },
    /// Failed, which the host's restart does not change.
    Failed,
}

impl Rest {
    /// How a VM is left that is seen so.
    pub fn of(vm: &Vm) -> Self {
        match vm.state {
            State::Created => Self::Created,
            State::Starting | State::Running | State::Paused | State::Stopping => Self::Up,
            State::Stopped => Self::Down {
                with_host: vm.state_detail.as_deref().is_some_and(|d| d.contains(HOST_RESTARTED)),
            },
            State::Failed | State::Deleting => Self::Failed,
        }
    }
}

impl Record {
    /// Looks or changes.
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a creation is about to be asked.
    pub fn creating(&self, spec: &VmSpec, key: &str) {
        let known = Known {
            spec: spec.clone(),
            key: key.to_owned(),
            id: None,
            rest: Rest::Created,
            doing: None,
            operations: Vec::new(),
        };
        self.inner().vms.insert(spec.name.clone(), known);
    }

    /// Changes what is known of a VM.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.inner().vms.get_mut(name) {
            change(known);
        }
    }

    /// Notes that an operation was granted, or how it ended.
    pub fn acknowledged(&self, name: &str, operation: &Operation) {
        self.told(name, operation);
        if operation.ended_at.is_none() {
            return;
        }
        let mut inner = self.inner();
        let Some(known) = inner.vms.get_mut(name) else { return };
        known.doing = None;
        if operation.state != OperationState::Succeeded {
            return;
        }
        known.rest = match operation.kind {
            OperationKind::Stop | OperationKind::Kill => Rest::Down { with_host: false },
            OperationKind::Delete => {
                inner.vms.remove(name);
                inner.deletions.push(operation.clone());
                return;
            }
            _ => Rest::Up,
        };
    }

    /// Notes how an operation is now.
    pub fn told(&self, name: &str, operation: &Operation) {
        self.change(name, |known| {
            known.operations.retain(|before| before.id != operation.id);
            known.operations.push(operation.clone());
            let old = known.operations.len().saturating_sub(OPERATIONS);
            known.operations.drain(..old);
        });
    }
}

impl Inner {
    /// Compares with the VMs that were found after a cut, with no operation
    /// under way any more.
    pub fn check(&self, found: &[Vm]) -> Result<()> {
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for vm in found {
            ensure!(names.insert(&vm.spec.name), "there are two VMs of one name: {vm:?}");
            ensure!(ids.insert(vm.id), "there are two VMs of one id: {vm:?}");
            let deleted = self.deletions.iter().any(|deletion| deletion.vm == vm.id);
            ensure!(!deleted, "its deletion was acknowledged: {vm:?}");
            let known = self.vms.get(&vm.spec.name);
            let known = known.with_context(|| format!("nobody asked for {vm:?}"))?;
            known.check(vm).with_context(|| format!("known was {known:?}\nfound is {vm:?}"))?;
        }
        for (name, known) in self.vms.iter().filter(|(name, _)| !names.contains(name)) {
            ensure!(known.may_be_missing(), "VM {name} is lost: {known:?}");
        }
        Ok(())
    }
}

impl Known {
    /// Whether it was in the making or in the unmaking.
    fn may_be_missing(&self) -> bool {
        self.id.is_none() || self.doing == Some(OperationKind::Delete)
    }

    fn check(&self, vm: &Vm) -> Result<()> {
        ensure!(vm.spec == self.spec, "its specification has changed");
        ensure!(self.id.is_none_or(|id| id == vm.id), "its id has changed");
        let now = Rest::of(vm);
        let by_host = now == Rest::Down { with_host: true };
        // Then it says why.
        let failed = now == Rest::Failed && vm.state_detail.is_some();
        let as_before = match self.rest {
            Rest::Up => by_host,
            Rest::Failed => failed,
            Rest::Created | Rest::Down { .. } => now == self.rest,
        };
        let holds = match self.doing {
            None | Some(OperationKind::Delete) => as_before,
            Some(OperationKind::Stop | OperationKind::Kill) => {
                as_before || vm.state == State::Stopped
            }
            Some(OperationKind::Start | OperationKind::Restart) => as_before || by_host || failed,
            Some(OperationKind::Pause | OperationKind::Resume) => as_before || by_host,
        };
        ensure!(holds, "this cannot have become of it");
        Ok(())
    }
}

/// Checks an operation that was acknowledged, as it is after a cut.
pub fn check_operation(before: &Operation, now: &Operation) -> Result<()> {
    if before.ended_at.is_some() {
        ensure!(before == now, "it had ended otherwise: {before:?}, and now {now:?}");
        return Ok(());
    }
    let same = (before.id, before.vm, before.kind) == (now.id, now.vm, now.kind);
    ensure!(same, "it was another one: {before:?}, and now {now:?}");
    match now.state {
        OperationState::Running => bail!("it goes on for ever: {now:?}"),
        OperationState::Succeeded => {}
        OperationState::Failed => {
            let why = now.error.as_deref().unwrap_or_default();
            ensure!(!why.is_empty(), "it does not say why it failed: {now:?}");
        }
    }
    ensure!(now.ended_at.is_some(), "it does not say when it ended: {now:?}");
    Ok(())
}
