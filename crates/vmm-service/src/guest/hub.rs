//! Owns every channel and keeps what each guest told.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;
use vmm_api::guest::{Guest, GuestSummary};

use crate::events::EventBus;

/// The one owner of all channels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {}

/// Why a guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Its agent is not there, or has not been heard of for too long.
    #[error("the guest's agent is not connected")]
    NotConnected,
    /// The guest's own policy does not allow it.
    #[error("the guest's policy does not allow {0}")]
    NotAllowed(String),
    /// It did not answer in time.
    #[error("the guest's agent did not answer within {0:?}")]
    TimedOut(Duration),
    /// It answered with an error.
    #[error("the guest's agent answered: {0}")]
    Refused(String),
}

impl Hub {
    /// A hub without guests. `events` hears of agents, stages and facts.
    pub fn new(_events: EventBus) -> Self {
        Self {}
    }

    /// Starts to serve a VM's channel: connects, says hello, listens until
    /// [`Hub::detach`]. Replaces an earlier attachment of the same VM; what was
    /// known of the guest is forgotten when `fresh` (a new run of the VM).
    pub fn attach(&self, _vm: Uuid, _socket: PathBuf, _fresh: bool) {}

    /// The guest opened or closed its port, as the hypervisor says.
    pub fn port(&self, _vm: Uuid, _open: bool) {}

    /// The guest was reset: stages, session and outstanding commands are void.
    pub fn reset(&self, _vm: Uuid) {}

    /// Lets go of a VM's channel and waits until its task is gone. What the
    /// guest told last stays readable until [`Hub::forget`].
    pub async fn detach(&self, _vm: Uuid) {}

    /// Forgets all that a VM's guest told.
    pub fn forget(&self, _vm: Uuid) {}

    /// How far a guest is, in short.
    pub fn summary(&self, _vm: Uuid) -> GuestSummary {
        GuestSummary::default()
    }

    /// Everything that is known of a guest; empty for a VM that never ran.
    pub fn guest(&self, _vm: Uuid) -> Guest {
        Guest::default()
    }

    /// Sends a command to a guest and waits for its reply.
    ///
    /// # Errors
    ///
    /// [`CommandError::NotConnected`] and [`CommandError::NotAllowed`] at once,
    /// the others within `deadline`.
    pub async fn command(
        &self,
        _vm: Uuid,
        _name: &str,
        _arguments: Value,
        _deadline: Duration,
    ) -> Result<Value, CommandError> {
        Err(CommandError::NotConnected)
    }

    /// Asks the guest to power off, reboot or halt (`guest-shutdown`), which
    /// sends no reply on success: returns once the request was written.
    ///
    /// # Errors
    ///
    /// As [`Hub::command`].
    pub async fn shutdown(
        &self,
        _vm: Uuid,
        _mode: &str,
        _deadline: Duration,
    ) -> Result<(), CommandError> {
        Err(CommandError::NotConnected)
    }

    /// Ends every channel's task and waits for them.
    pub async fn close(&self) {}
}
