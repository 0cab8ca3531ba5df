//! A store with which a test interferes: a hook decides before each call whether
//! it fails, and may stand still before or after it for ever.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::VmSpec;

use super::{IdempotencyKey, Inserted, MemoryStore, StateChange, Store, StoreError, VmRecord};

/// What a caller wants of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// What comes between the callers and the store.
#[async_trait]
pub trait Hook: Send + Sync {
    /// Before a call; an error is the caller's answer.
    async fn before(&self, access: Access) -> Result<(), StoreError>;

    /// After a call that was let through, before its caller hears of it.
    async fn after(&self, _access: Access) {}
}

/// A store in memory behind a hook.
#[derive(Default)]
pub struct Hooked<H> {
    pub store: Arc<MemoryStore>,
    pub hook: H,
}

impl<H: Hook> Hooked<H> {
    async fn call<T>(
        &self,
        access: Access,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.hook.before(access).await?;
        let outcome = call.await;
        self.hook.after(access).await;
        outcome
    }
}

#[async_trait]
impl<H: Hook> Store for Hooked<H> {
    async fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.call(Access::Read, self.store.vms()).await
    }

    async fn insert_vm(
        &self,
        record: &VmRecord,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        self.call(Access::Write, self.store.insert_vm(record, key)).await
    }

    async fn change_state(&self, change: &StateChange) -> Result<(), StoreError> {
        self.call(Access::Write, self.store.change_state(change)).await
    }

    async fn change_spec(&self, id: Uuid, spec: &VmSpec) -> Result<(), StoreError> {
        self.call(Access::Write, self.store.change_spec(id, spec)).await
    }

    async fn delete_vm(&self, id: Uuid, deletion: Option<&Operation>) -> Result<(), StoreError> {
        self.call(Access::Write, self.store.delete_vm(id, deletion)).await
    }

    async fn operation(&self, id: Uuid) -> Result<Option<Operation>, StoreError> {
        self.call(Access::Read, self.store.operation(id)).await
    }

    async fn unfinished_operations(&self) -> Result<Vec<Operation>, StoreError> {
        self.call(Access::Read, self.store.unfinished_operations()).await
    }

    async fn last_boot(&self) -> Result<Option<String>, StoreError> {
        self.call(Access::Read, self.store.last_boot()).await
    }

    async fn remember_boot(&self, boot: &str) -> Result<(), StoreError> {
        self.call(Access::Write, self.store.remember_boot(boot)).await
    }
}
