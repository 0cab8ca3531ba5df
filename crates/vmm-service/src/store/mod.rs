//! The seam to what is remembered. An acknowledged change survives a power cut;
//! this folder is the only one that knows SQL.

mod memory;
mod schema;
mod seal;
mod sqlite;
mod tables;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
pub mod hooked;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::{State, VmSpec};

pub use memory::MemoryStore;
pub use schema::Contents;
pub use sqlite::SqliteStore;

/// How many operations that ended are remembered of each VM. Who asks for an
/// operation does so within minutes; more would only grow the state file.
pub const ENDED_OPERATIONS_PER_VM: u32 = 64;

/// How long the operation that deleted a VM, and an idempotency key, are
/// remembered: a day is longer than any client keeps retrying.
pub const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A VM as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRecord {
    /// Its identity.
    pub id: Uuid,
    /// What was asked for.
    pub spec: VmSpec,
    /// The versioned machine type that it was created with.
    pub machine_type: String,
    /// The last state that was written down. `starting`, `stopping` and
    /// `deleting` tell the next run of the daemon what was under way.
    pub state: State,
    /// Why, where that needs saying.
    pub state_detail: Option<String>,
    /// By the host's clock.
    pub created_at: Timestamp,
    /// By the host's clock.
    pub state_changed_at: Timestamp,
}

/// A VM's new state, with the operation that it began, moved on or ended. Both
/// are written in one transaction, so that neither is ever seen without the
/// other.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChange {
    /// The VM.
    pub id: Uuid,
    /// Its new state.
    pub state: State,
    /// Why, where that needs saying.
    pub detail: Option<String>,
    /// When, by the host's clock.
    pub at: Timestamp,
    /// The operations that changed with it; one that was overtaken and the one
    /// that overtook it, at most.
    pub operations: Vec<Operation>,
}

/// What makes a repeated creation harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's key, with the principal and route that it is scoped to.
    pub key: String,
    /// A hash of the body that it came with.
    pub body_hash: String,
}

/// What came of adding a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is remembered now.
    New,
    /// The same request made this VM before; nothing was changed.
    Before(Uuid),
}

/// What the daemon remembers.
///
/// Every method returns only when its change is durable. All implementations
/// pass the same contract tests, in `store/contract.rs`.
#[async_trait]
pub trait Store: Send + Sync {
    /// All VMs, sorted by name.
    async fn vms(&self) -> Result<Vec<VmRecord>, StoreError>;

    /// Adds a VM. Fails with [`StoreError::NameTaken`] and changes nothing when
    /// its name is in use. A key that was seen with the same body changes
    /// nothing either and tells the VM that it made; with another body it is
    /// [`StoreError::KeyReused`].
    async fn insert_vm(
        &self,
        record: &VmRecord,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError>;

    /// Writes a VM's state and its operations. Fails with
    /// [`StoreError::NoSuchVm`] when it is not there.
    async fn change_state(&self, change: &StateChange) -> Result<(), StoreError>;

    /// Writes a VM's specification, whose name must be what it was. Fails with
    /// [`StoreError::NoSuchVm`] when the VM is not there.
    async fn change_spec(&self, id: Uuid, spec: &VmSpec) -> Result<(), StoreError>;

    /// Forgets a VM with its operations and idempotency keys, but remembers
    /// `deletion`, the operation that did it. Idempotent.
    async fn delete_vm(&self, id: Uuid, deletion: Option<&Operation>) -> Result<(), StoreError>;

    /// An operation by its id.
    async fn operation(&self, id: Uuid) -> Result<Option<Operation>, StoreError>;

    /// Operations that never ended, of every VM.
    async fn unfinished_operations(&self) -> Result<Vec<Operation>, StoreError>;

    /// The boot of the host in which a daemon last found all its VMs, by the
    /// kernel's id of it. `None` when no daemon ever said.
    async fn last_boot(&self) -> Result<Option<String>, StoreError>;

    /// Remembers the boot of the host.
    async fn remember_boot(&self, boot: &str) -> Result<(), StoreError>;
}

/// Why something was not remembered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another VM has that name.
    #[error("the name {0:?} is taken")]
    NameTaken(String),
    /// There is no such VM.
    #[error("there is no VM {0}")]
    NoSuchVm(Uuid),
    /// The idempotency key came before, with another body.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// The disk that holds the state is full.
    #[error("the disk that holds the state is full")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk that holds the state fails, or takes no writes any more.
    #[error("the disk that holds the state fails or is read-only")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store itself failed: file damaged, and the like.
    #[error("the state could not be {doing}")]
    Failed {
        /// "read", "written", …
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
