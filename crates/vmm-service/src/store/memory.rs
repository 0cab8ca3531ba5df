//! The store in memory: for tests and for what needs no memory beyond the
//! process. It keeps the same promises, but for the power cut.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::VmSpec;

use super::{
    ENDED_OPERATIONS_PER_VM, IdempotencyKey, Inserted, REMEMBERED, StateChange, Store, StoreError,
    VmRecord,
};

/// A store that forgets everything with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    vms: HashMap<Uuid, VmRecord>,
    /// In the order in which they began, which the clock does not tell: it may
    /// be set back.
    operations: Vec<Operation>,
    keys: HashMap<String, Key>,
    boot: Option<String>,
}

#[derive(Debug)]
struct Key {
    body_hash: String,
    vm: Uuid,
    created_at: Timestamp,
}

#[async_trait]
impl Store for MemoryStore {
    async fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        let mut vms: Vec<VmRecord> = self.lock().vms.values().cloned().collect();
        vms.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(vms)
    }

    async fn insert_vm(
        &self,
        record: &VmRecord,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let mut tables = self.lock();
        // A key from the future was written before the clock was set back.
        tables
            .keys
            .retain(|_, key| record.created_at.duration_since(key.created_at).abs() < REMEMBERED);
        if let Some(key) = key
            && let Some(before) = tables.keys.get(&key.key)
        {
            if before.body_hash != key.body_hash {
                return Err(StoreError::KeyReused);
            }
            return Ok(Inserted::Before(before.vm));
        }
        if tables.vms.values().any(|vm| vm.spec.name == record.spec.name) {
            return Err(StoreError::NameTaken(record.spec.name.clone()));
        }
        if let Some(IdempotencyKey { key, body_hash }) = key.cloned() {
            let entry = Key { body_hash, vm: record.id, created_at: record.created_at };
            tables.keys.insert(key, entry);
        }
        tables.vms.insert(record.id, record.clone());
        Ok(Inserted::New)
    }

    async fn change_state(&self, change: &StateChange) -> Result<(), StoreError> {
        let mut tables = self.lock();
        let vm = tables.vms.get_mut(&change.id).ok_or(StoreError::NoSuchVm(change.id))?;
        vm.state = change.state;
        vm.state_detail.clone_from(&change.detail);
        vm.state_changed_at = change.at;
        for operation in &change.operations {
            tables.put_operation(operation);
        }
        Ok(())
    }

    async fn change_spec(&self, id: Uuid, spec: &VmSpec) -> Result<(), StoreError> {
        let mut tables = self.lock();
        tables.vms.get_mut(&id).ok_or(StoreError::NoSuchVm(id))?.spec = spec.clone();
        Ok(())
    }

    async fn delete_vm(&self, id: Uuid, deletion: Option<&Operation>) -> Result<(), StoreError> {
        let mut tables = self.lock();
        tables.vms.remove(&id);
        tables.operations.retain(|operation| operation.vm != id);
        tables.keys.retain(|_, key| key.vm != id);
        if let Some(deletion) = deletion {
            tables.put_operation(deletion);
        }
        Ok(())
    }

    async fn operation(&self, id: Uuid) -> Result<Option<Operation>, StoreError> {
        Ok(self.lock().operations.iter().find(|operation| operation.id == id).cloned())
    }

    async fn unfinished_operations(&self) -> Result<Vec<Operation>, StoreError> {
        let tables = self.lock();
        Ok(tables.operations.iter().filter(|o| o.ended_at.is_none()).cloned().collect())
    }

    async fn last_boot(&self) -> Result<Option<String>, StoreError> {
        Ok(self.lock().boot.clone())
    }

    async fn remember_boot(&self, boot: &str) -> Result<(), StoreError> {
        self.lock().boot = Some(boot.to_owned());
        Ok(())
    }
}

impl MemoryStore {
    /// No method panics while it holds the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn put_operation(&mut self, operation: &Operation) {
        match self.operations.iter_mut().find(|known| known.id == operation.id) {
            Some(known) => known.clone_from(operation),
            None => self.operations.push(operation.clone()),
        }
        let ended = |o: &Operation| o.vm == operation.vm && o.ended_at.is_some();
        let count = self.operations.iter().filter(|o| ended(o)).count();
        let mut surplus = count.saturating_sub(ENDED_OPERATIONS_PER_VM as usize);
        self.operations.retain(|o| {
            let goes = surplus > 0 && ended(o);
            surplus -= usize::from(goes);
            !goes
        });
    }
}
