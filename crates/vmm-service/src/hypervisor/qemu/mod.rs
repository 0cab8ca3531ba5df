//! Machines under QEMU.
//!
//! Each has a folder, a keeper between it and the daemon, users of its own and
//! an empty network namespace. docs/host.md shows it to operators.

mod accel;
mod ask;
mod command_line;
pub mod config;
mod host;
mod keeper_process;
mod machine;
mod monitor;
mod plan;
mod qmp;
mod run_dir;
mod trace;
mod users;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    Adoption, EVENT_QUEUE, Exit, Hypervisor, Launch, MachineError, RunState, Running, StartError,
};
use crate::keeper::records::{self, RunRecord};
use crate::sys::process::Pidfd;
use config::QemuConfig;
use host::{Host, NotLaunched, blocking};
use machine::{QemuMachine, REQUEST_QUEUE};
use monitor::{Monitor, Setup, Timing};
use qmp::Connection;
use run_dir::RunDirs;
use trace::{Trace, found, keeper_of};

pub use accel::Verdict;
pub use host::OpenError;

/// How long a new QEMU may take to greet: it initialises its devices first.
const FIRST_GREETING: Duration = Duration::from_secs(20);

/// How long a killed process may take to be gone: it frees its memory first.
const DEATH: Duration = Duration::from_secs(10);

/// How often what cannot be told yet is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long something that is ending may take to have ended.
const ENDING: Duration = Duration::from_secs(1);

/// QEMU on this host.
pub struct QemuHypervisor {
    host: Arc<Host>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    timing: Timing,
}

impl QemuHypervisor {
    /// Looks at the host: finds QEMU, asks what it can do, and finds out what
    /// guests run on, which takes up to three seconds once per boot of the host.
    ///
    /// A task for each machine runs in `tasks` and ends with `shutdown`; the
    /// machines run on.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is missing.
    pub async fn open(
        config: &QemuConfig,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, OpenError> {
        let config = config.clone();
        let host = blocking(move || Host::open(&config)).await?;
        tracing::info!(
            accel = host.verdict.accel.word(),
            why = host.verdict.why,
            "Guests run on this accelerator."
        );
        Ok(Self { host: Arc::new(host), tasks, shutdown, timing: Timing::default() })
    }

    /// What guests run on, and why.
    pub fn accel(&self) -> &Verdict {
        &self.host.verdict
    }

    /// The newest versioned machine type of the installed QEMU, for VMs that are
    /// created now.
    pub fn default_machine_type(&self) -> String {
        self.host.machine_type.to_string()
    }

    /// From a keeper's good news to processors that run.
    async fn settle(&self, id: Uuid, keeper: Pidfd) -> Result<Running, StartError> {
        let failed = |context: &str| {
            let context = context.to_owned();
            move |source: io::Error| StartError::Failed { context, source: source.into() }
        };
        let dir = self.host.dirs.of(id);
        let (record, pidfd) =
            found(&dir).map_err(failed("the machine that was started could not be found"))?;
        let socket = self.host.dirs.socket(id, records::QMP_SOCKET);
        let connecting = async {
            let mut connection = Connection::open(&socket).await?;
            connection.execute("cont", Value::Null).await?;
            Ok::<_, qmp::QmpError>(connection)
        };
        let connection = match timeout(FIRST_GREETING, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.died(id, keeper, error).await),
            Err(elapsed) => {
                return Err(StartError::Failed {
                    context: "QEMU did not greet in time".into(),
                    source: elapsed.into(),
                });
            }
        };
        let found = Found { id, pid: record.qemu.pid, pidfd, keeper: Some(keeper) };
        self.watch(found, Some(connection), RunState::Running)
            .map_err(failed("the machine that was started could not be watched"))
    }

    /// What to say of a QEMU that did not do what it was asked: its own last
    /// words when it has ended.
    async fn died(&self, id: Uuid, keeper: Pidfd, error: qmp::QmpError) -> StartError {
        // The keeper ends when it has written down how QEMU did.
        if !has_ended_soon(keeper).await {
            return StartError::Failed {
                context: "QEMU's monitor failed".into(),
                source: error.into(),
            };
        }
        let how = match monitor::recorded_exit(&self.host.dirs.of(id)) {
            Some(Exit::Status(status)) => format!("with status {status}"),
            Some(Exit::Signal(signal)) => format!("by signal {signal}"),
            Some(Exit::Unseen) | None => "unseen".into(),
        };
        let words = self.host.dirs.last_words(id);
        StartError::Failed {
            context: format!("QEMU ended {how} at its start: {words}"),
            source: error.into(),
        }
    }

    fn watch(
        &self,
        found: Found,
        connection: Option<Connection>,
        state: RunState,
    ) -> io::Result<Running> {
        let Found { id, pid, pidfd, keeper } = found;
        let (request_sender, requests) = mpsc::channel(REQUEST_QUEUE);
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let qemu = pidfd.try_clone()?;
        let monitor = Monitor::new(Setup {
            id,
            dir: self.host.dirs.of(id),
            socket: self.host.dirs.socket(id, records::QMP_SOCKET),
            connection,
            state,
            qemu,
            keeper,
            requests,
            events: event_sender,
            timing: self.timing,
        })?;
        self.tasks.spawn(monitor.run(self.shutdown.clone()));
        let guest_channel = self.host.dirs.socket(id, records::AGENT_SOCKET);
        let machine = Box::new(QemuMachine { requests: request_sender, pid, pidfd, guest_channel });
        Ok(Running { machine, events })
    }

    /// Undoes a start that failed; gives the reason back.
    async fn undo(&self, id: Uuid, had_folder: bool, error: StartError) -> StartError {
        let dir = self.host.dirs.of(id);
        let left = self.remains(&dir).await;
        if let Trace::Unknown { why, .. } = left {
            return StartError::Unclear { left: why, source: error.into() };
        }
        if let Trace::Runs(_, pidfd) = left {
            let _ = pidfd.kill();
            if let Ok(process) = pidfd.watch() {
                let _ = timeout(DEATH, process.ended()).await;
            }
        }
        if let Some(keeper) = keeper_of(&dir).and_then(|keeper| keeper.watch().ok()) {
            monitor::how_it_ended(&dir, Some(&keeper)).await;
        }
        let removed = if had_folder { self.clear(id).await } else { self.purge(id).await };
        if let Err(error) = removed {
            tracing::warn!(vm = %id, %error, "What a failed start left behind could not be removed.");
        }
        error
    }

    /// What there is of a start that failed. A keeper that was killed may leave
    /// a child behind that becomes QEMU a moment later.
    async fn remains(&self, dir: &Path) -> Trace {
        let deadline = Instant::now() + DEATH;
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            match trace::of(dir) {
                Trace::Unknown { .. } if Instant::now() < deadline => {}
                trace => return trace,
            }
        }
    }

    async fn take_back(
        &self,
        id: Uuid,
        record: &RunRecord,
        pidfd: Pidfd,
    ) -> io::Result<(Running, RunState)> {
        let dir = self.host.dirs.of(id);
        // A dead keeper is replaced by the task, which says so.
        let keeper = keeper_of(&dir);
        let socket = self.host.dirs.socket(id, records::QMP_SOCKET);
        let asking = async {
            let mut connection = Connection::open(&socket).await?;
            let status = connection.execute("query-status", Value::Null).await?;
            Ok::<_, qmp::QmpError>((connection, machine::run_state(&status)))
        };
        let (connection, state) = match timeout(self.timing.handshake, asking).await {
            Ok(Ok((connection, state))) => (Some(connection), state),
            // The task goes on trying, and says so.
            Ok(Err(_)) | Err(_) => (None, RunState::Running),
        };
        let found = Found { id, pid: record.qemu.pid, pidfd, keeper };
        Ok((self.watch(found, connection, state)?, state))
    }
}

/// A machine's process and its keeper's, both held.
struct Found {
    id: Uuid,
    pid: u32,
    pidfd: Pidfd,
    keeper: Option<Pidfd>,
}

#[async_trait]
impl Hypervisor for QemuHypervisor {
    async fn start(&self, launch: &Launch) -> Result<Running, StartError> {
        let (host, launch) = (self.host.clone(), launch.clone());
        let id = launch.id;
        let had_folder = self.host.dirs.of(id).exists();
        let keeper = match blocking(move || host.launch(&launch)).await {
            Ok(keeper) => keeper,
            Err(NotLaunched::Untouched(error)) => return Err(error),
            Err(NotLaunched::Begun(error)) => return Err(self.undo(id, had_folder, error).await),
        };
        match self.settle(id, keeper).await {
            Ok(running) => Ok(running),
            Err(error) => Err(self.undo(id, had_folder, error).await),
        }
    }

    async fn adopt(&self, id: Uuid) -> Adoption {
        let dir = self.host.dirs.of(id);
        let mut trace = trace::of(&dir);
        if let Trace::Unknown { held: Some(pidfd), .. } = trace {
            // A process that is ending shows no arguments for a moment.
            has_ended_soon(pidfd).await;
            trace = trace::of(&dir);
        }
        match trace {
            Trace::None => Adoption::Gone(None),
            Trace::Unknown { why, .. } => Adoption::Unknown(why),
            Trace::Gone => {
                let keeper = keeper_of(&dir).and_then(|keeper| keeper.watch().ok());
                Adoption::Gone(Some(monitor::how_it_ended(&dir, keeper.as_ref()).await))
            }
            Trace::Runs(record, pidfd) => match self.take_back(id, &record, pidfd).await {
                Ok((running, state)) => Adoption::Running(running, state),
                Err(error) => Adoption::Unknown(format!("the machine cannot be watched: {error}")),
            },
        }
    }

    async fn clear(&self, id: Uuid) -> Result<(), MachineError> {
        let host = self.host.clone();
        blocking(move || host.remove(id, RunDirs::clear)).await
    }

    async fn purge(&self, id: Uuid) -> Result<(), MachineError> {
        let host = self.host.clone();
        blocking(move || host.remove(id, RunDirs::purge)).await
    }

    async fn inventory(&self) -> Result<Vec<Uuid>, MachineError> {
        let dirs = &self.host.dirs;
        dirs.all().map_err(|error| {
            MachineError::Os(format!("{} could not be read", dirs.root().display()), error)
        })
    }

    fn console_log(&self, id: Uuid) -> Vec<PathBuf> {
        self.host.dirs.console_log(id)
    }
}

/// Whether the process ends within a moment.
async fn has_ended_soon(pidfd: Pidfd) -> bool {
    match pidfd.watch() {
        Ok(process) => timeout(ENDING, process.ended()).await.is_ok(),
        Err(_) => false,
    }
}
