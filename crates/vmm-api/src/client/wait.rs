//! Waiting for an operation to end, across restarts of the daemon.

use std::time::Duration;

use tokio::time::Instant;

use super::{Client, Error};
use crate::operation::{Operation, OperationKind, OperationState};

/// How long one long-poll lasts: short enough that a dead daemon is noticed,
/// long enough to cost nothing.
const POLL: Duration = Duration::from_secs(20);

/// How long a daemon that has gone away may take to come back. A restart takes
/// a second or two.
const PATIENCE: Duration = Duration::from_secs(15);

/// The first and the longest pause between two attempts to reach it.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Client {
    /// Waits until an operation has ended and returns it as it ended, whether
    /// it succeeded or failed. A daemon that restarts meanwhile is waited for:
    /// operations survive it.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] when it has not ended within `deadline`, and the
    /// last error when the daemon went away and did not come back.
    pub async fn wait(&self, operation: Operation, deadline: Duration) -> Result<Operation, Error> {
        let end = Instant::now() + deadline;
        let mut operation = operation;
        let mut away_since = None;
        let mut pause = BACK_OFF.0;
        while operation.state == OperationState::Running {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut(deadline));
            }
            let asked = Instant::now();
            match self.operation(operation.id, left.min(POLL)).await {
                Ok(now) => {
                    operation = now;
                    away_since = None;
                    // A daemon that goes down answers at once what it knows.
                    if asked.elapsed() > BACK_OFF.1 {
                        pause = BACK_OFF.0;
                    } else if operation.state == OperationState::Running {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(BACK_OFF.1);
                    }
                }
                Err(error @ (Error::NotReachable { .. } | Error::Lost(_))) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() + pause > PATIENCE {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
                Err(error) if error.status() == Some(404) => {
                    return self.forgotten(operation, error).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(operation)
    }

    /// The daemon knows nothing of the operation any more. A VM's operations go
    /// with it: when the VM is gone too, its deletion has succeeded.
    async fn forgotten(&self, operation: Operation, error: Error) -> Result<Operation, Error> {
        if operation.kind != OperationKind::Delete {
            return Err(error);
        }
        match self.vm(&operation.vm.to_string()).await {
            Err(gone) if gone.status() == Some(404) => Ok(Operation {
                state: OperationState::Succeeded,
                progress: 1.0,
                ended_at: Some(jiff::Timestamp::now()),
                ..operation
            }),
            _ => Err(error),
        }
    }
}
