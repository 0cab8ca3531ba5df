//! The seam to what is remembered. An acknowledged change survives a power cut;
//! this folder is the only one that knows SQL.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::{State, VmSpec};

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

/// What the daemon remembers.
///
/// Every method returns only when its change is durable. All implementations
/// pass the same contract tests, in `store/contract.rs`.
#[async_trait]
pub trait Store: Send + Sync {
    /// All VMs, sorted by name.
    async fn vms(&self) -> Result<Vec<VmRecord>, StoreError>;

    /// Adds a VM. Fails with [`StoreError::NameTaken`] and changes nothing when
    /// its name is in use.
    async fn insert_vm(&self, record: &VmRecord) -> Result<(), StoreError>;

    /// Writes a VM's state. Fails with [`StoreError::NoSuchVm`] when it is not
    /// there.
    async fn set_state(
        &self,
        id: Uuid,
        state: State,
        detail: Option<&str>,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Forgets a VM and its operations. Idempotent.
    async fn delete_vm(&self, id: Uuid) -> Result<(), StoreError>;

    /// Adds or replaces an operation.
    async fn put_operation(&self, operation: &Operation) -> Result<(), StoreError>;

    /// An operation by its id.
    async fn operation(&self, id: Uuid) -> Result<Option<Operation>, StoreError>;

    /// Operations that never ended, of every VM.
    async fn unfinished_operations(&self) -> Result<Vec<Operation>, StoreError>;
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
    /// The store itself failed: disk full, file damaged, and the like.
    #[error("the state could not be {doing}")]
    Failed {
        /// "read", "written", …
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
