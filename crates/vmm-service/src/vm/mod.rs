//! A VM's life: what it should be, what state it is in, who drives it.

pub mod adopt;
pub mod autostart;
pub mod driver;
pub mod field;
pub mod registry;
mod request;
pub mod spec;
pub mod state;
mod work;

use std::sync::Arc;

use uuid::Uuid;

use crate::events::EventBus;
use crate::guest::hub::Hub;
use crate::hypervisor::Hypervisor;
use crate::store::{Store, StoreError};

pub use state::{Refusal, Request};

/// What every driver uses and none owns.
pub struct Shared {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// What runs the machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The guests' channels.
    pub hub: Hub,
    /// Where what happens is told.
    pub events: EventBus,
    /// The versioned machine type that a VM created now gets for life.
    pub machine_type: String,
    /// The kernel of VMs that name nothing to boot from.
    pub default_kernel: Option<String>,
    /// This boot of the host, by the kernel's id of it.
    pub boot: String,
}

/// Why a request was not taken on. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such VM.
    #[error("there is no VM {0}")]
    NoSuchVm(Uuid),
    /// The VM's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is nothing that the VM could boot from.
    #[error("{0}")]
    NotBootable(String),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many requests wait for this VM.
    #[error("too many requests wait for this VM")]
    Busy,
    /// The daemon goes down, or the VM has just been deleted.
    #[error("nobody takes requests for this VM any more")]
    Closed,
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
pub(crate) mod driver_tests;
#[cfg(test)]
mod state_tests;
