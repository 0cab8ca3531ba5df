//! The seam to what really runs a virtual machine.
//!
//! `vm/driver.rs` is the only caller. It decides, in its one queue, what should
//! happen; a [`Hypervisor`] starts and finds machines, a [`Machine`] is one that
//! runs. Implementations: `qemu`, and `simulated` for tests
//! and benchmarks.

#[cfg(test)]
mod contract;
pub mod qemu;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;
use vmm_api::vm::VmSpec;

/// How many events of one machine may wait for its driver. A driver that falls
/// so far behind makes the machine's monitor wait, not the host's memory grow.
pub const EVENT_QUEUE: usize = 256;

/// Starts machines and finds those that run already.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Starts a machine and returns once its processors run.
    ///
    /// The caller holds no other machine of that id. When this fails nothing
    /// of the attempt is left: no process, no socket, no folder that was not
    /// there before. Only [`StartError::Unclear`] says otherwise.
    ///
    /// # Errors
    ///
    /// [`StartError`] says whether the specification or the host is to blame.
    async fn start(&self, launch: &Launch) -> Result<Running, StartError>;

    /// Finds out what has become of a machine that an earlier run of the daemon
    /// started. Never kills, never starts.
    async fn adopt(&self, id: Uuid) -> Adoption;

    /// Removes what a dead machine's run left behind (sockets, keeper's
    /// records), keeping its console log. Idempotent.
    ///
    /// # Errors
    ///
    /// When something could not be removed.
    async fn clear(&self, id: Uuid) -> Result<(), MachineError>;

    /// Removes everything of a VM that is being deleted, console log included.
    /// Idempotent.
    ///
    /// # Errors
    ///
    /// When something could not be removed.
    async fn purge(&self, id: Uuid) -> Result<(), MachineError>;

    /// Ids of every machine that has anything on this host, whether or not the
    /// store knows it. The registry reports strangers; it never kills them.
    ///
    /// # Errors
    ///
    /// When the host could not be asked.
    async fn inventory(&self) -> Result<Vec<Uuid>, MachineError>;

    /// The console log's files of a machine, oldest first; empty when it never
    /// ran.
    fn console_log(&self, id: Uuid) -> Vec<PathBuf>;
}

/// What is needed to start a machine.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The VM's identity, the guest's SMBIOS UUID too.
    pub id: Uuid,
    /// What it should be; its kernel is filled in when the host has a default.
    pub spec: VmSpec,
    /// The versioned machine type the VM was created with (`pc-q35-7.2`), so
    /// that an upgrade of QEMU changes no guest's hardware.
    pub machine_type: String,
}

/// A machine that runs, with everything that it will ever say.
pub struct Running {
    /// The handle for what the driver asks of it.
    pub machine: Box<dyn Machine>,
    /// What happens to it. Ends after [`MachineEvent::Exited`].
    pub events: mpsc::Receiver<MachineEvent>,
}

/// One machine that runs. Dropping it lets go of it; the machine runs on.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Stops the processors. Idempotent.
    ///
    /// # Errors
    ///
    /// When the machine did not confirm in time.
    async fn pause(&self) -> Result<(), MachineError>;

    /// Lets the processors run again. Idempotent.
    ///
    /// # Errors
    ///
    /// When the machine did not confirm in time.
    async fn resume(&self) -> Result<(), MachineError>;

    /// Presses the ACPI power button. Whether the guest obeys shows later.
    ///
    /// # Errors
    ///
    /// When the button could not be pressed.
    async fn press_power_button(&self) -> Result<(), MachineError>;

    /// Resets the machine as its reset button would.
    ///
    /// # Errors
    ///
    /// When the machine did not confirm in time.
    async fn reset(&self) -> Result<(), MachineError>;

    /// Kills the process at once, after making sure that it is the right one.
    /// The machine's [`MachineEvent::Exited`] follows.
    ///
    /// # Errors
    ///
    /// When the process could not be killed, or might be somebody else's.
    async fn kill(&self) -> Result<(), MachineError>;

    /// Whether the processors run, asked now.
    ///
    /// # Errors
    ///
    /// When the machine did not answer in time.
    async fn status(&self) -> Result<RunState, MachineError>;

    /// The process that runs it, if one does.
    fn pid(&self) -> Option<u32>;

    /// The unix socket that is the host's end of `org.infinibay.agent`.
    fn guest_channel(&self) -> Option<PathBuf>;
}

/// What the processors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// They run.
    Running,
    /// They were stopped, by us or by an I/O error.
    Paused,
}

/// What a machine says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The processors were stopped.
    Paused,
    /// The processors run again.
    Resumed,
    /// The guest rebooted, or was reset, in the same process.
    Reset,
    /// The guest powered itself off, or was told to; the exit follows.
    PoweringOff,
    /// The guest's kernel panicked.
    Panicked,
    /// The guest opened (true) or closed the agent's port.
    AgentPort(bool),
    /// The monitor stopped answering while the process lives; what the machine
    /// does is unknown until [`MachineEvent::MonitorBack`].
    MonitorLost(String),
    /// The monitor answers again.
    MonitorBack,
    /// The keeper died: the machine runs on, but its exit status and console
    /// log are no longer recorded until [`MachineEvent::KeeperBack`].
    KeeperLost,
    /// A new keeper watches the machine.
    KeeperBack,
    /// The process is gone. Always the last event.
    Exited(Exit),
}

/// How a machine's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit status. 0 after a guest's power-off.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// It is gone and nobody saw how: its keeper was dead, or the host went
    /// down.
    Unseen,
}

/// What became of a machine while the daemon was away.
pub enum Adoption {
    /// It runs, and is ours again.
    Running(Running, RunState),
    /// It does not run. `None` when there is no trace of a run.
    Gone(Option<Exit>),
    /// There is a process, and it cannot be told whether it is the machine.
    /// It must be treated as alive: not started again, not killed.
    Unknown(String),
}

/// Why a machine was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The specification asks for what is not there; the sentence says what.
    #[error("{0}")]
    Refused(String),
    /// The host failed.
    #[error("{context}")]
    Failed {
        /// What was being done.
        context: String,
        /// Why it did not work.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It failed, and something is left that may be the machine.
    #[error("{left}")]
    Unclear {
        /// Why that cannot be told. It must be treated as alive.
        left: String,
        /// What had failed.
        #[source]
        source: Box<StartError>,
    },
}

/// Why a machine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It is not there any more.
    #[error("the machine's process is gone")]
    Gone,
    /// It did not answer in time.
    #[error("the machine's monitor did not answer within {0} s")]
    Silent(u64),
    /// It answered with an error.
    #[error("the machine's monitor refused {command}: {desc}")]
    Refused {
        /// The QMP command.
        command: String,
        /// QEMU's own words.
        desc: String,
    },
    /// Its process may be somebody else's by now.
    #[error("the process could not be identified as this machine: {0}")]
    Unidentified(String),
    /// The operating system said no.
    #[error("{0}")]
    Os(String, #[source] std::io::Error),
}
