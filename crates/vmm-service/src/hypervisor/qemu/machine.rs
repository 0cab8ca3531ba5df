//! The driver's handle on a machine that runs.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::super::{Machine, MachineError, RunState};
use crate::sys::process::Pidfd;

/// How long a command may take. QEMU answers within a millisecond unless the
/// host swaps or a disk hangs.
pub(super) const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// How many commands of one machine may wait for the monitor.
pub(super) const REQUEST_QUEUE: usize = 16;

/// A command for the monitor.
pub(super) struct Request {
    pub(super) command: &'static str,
    pub(super) answer: oneshot::Sender<Result<Value, MachineError>>,
}

/// A machine under QEMU.
pub(super) struct QemuMachine {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) pid: u32,
    pub(super) pidfd: Pidfd,
    pub(super) guest_channel: PathBuf,
}

impl QemuMachine {
    async fn execute(&self, command: &'static str) -> Result<Value, MachineError> {
        let asked = async {
            let (answer, answered) = oneshot::channel();
            self.requests
                .send(Request { command, answer })
                .await
                .map_err(|_| MachineError::Gone)?;
            // The monitor drops what it cannot answer any more.
            answered.await.map_err(|_| MachineError::Gone)?
        };
        tokio::time::timeout(COMMAND_DEADLINE, asked)
            .await
            .map_err(|_| MachineError::Silent(COMMAND_DEADLINE.as_secs()))?
    }
}

#[async_trait]
impl Machine for QemuMachine {
    async fn pause(&self) -> Result<(), MachineError> {
        self.execute("stop").await.map(drop)
    }

    async fn resume(&self) -> Result<(), MachineError> {
        self.execute("cont").await.map(drop)
    }

    async fn press_power_button(&self) -> Result<(), MachineError> {
        self.execute("system_powerdown").await.map(drop)
    }

    async fn reset(&self) -> Result<(), MachineError> {
        self.execute("system_reset").await.map(drop)
    }

    async fn kill(&self) -> Result<(), MachineError> {
        // The process was identified while it was held, and is held since: no
        // other can have taken its place.
        match self.pidfd.kill() {
            Ok(true) => Ok(()),
            Ok(false) => Err(MachineError::Gone),
            Err(error) => {
                Err(MachineError::Os(format!("process {} could not be killed", self.pid), error))
            }
        }
    }

    async fn status(&self) -> Result<RunState, MachineError> {
        Ok(run_state(&self.execute("query-status").await?))
    }

    fn pid(&self) -> Option<u32> {
        match self.pidfd.has_ended() {
            Ok(true) => None,
            Ok(false) | Err(_) => Some(self.pid),
        }
    }

    fn guest_channel(&self) -> Option<PathBuf> {
        Some(self.guest_channel.clone())
    }
}

/// What `query-status` says of the processors.
pub(super) fn run_state(answer: &Value) -> RunState {
    match answer["running"].as_bool() {
        Some(true) => RunState::Running,
        _ => RunState::Paused,
    }
}
