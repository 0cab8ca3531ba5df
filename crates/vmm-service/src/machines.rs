//! Opens what runs the machines, as the configuration says.

use std::sync::Arc;

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::qemu::{QemuHypervisor, Verdict};
#[cfg(feature = "simulated")]
use crate::hypervisor::simulated::SimulatedHypervisor;

/// Simulated machines have no hardware; any versioned name will do.
#[cfg(feature = "simulated")]
const SIMULATED_MACHINE_TYPE: &str = "pc-q35-7.2";

/// What runs the machines, opened.
pub struct Machines {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The machine type of VMs that are created now.
    pub machine_type: String,
    /// What it does beside the requests, until `shutdown`.
    pub tasks: TaskTracker,
    /// Lets go of all machines, which run on.
    pub shutdown: CancellationToken,
}

/// Opens it.
pub async fn open(config: &Config) -> Result<Machines> {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    #[cfg(feature = "simulated")]
    if let Some(dir) = &config.simulated {
        tracing::warn!(?dir, "No machine of this daemon is real.");
        let hypervisor = Arc::new(SimulatedHypervisor::new(dir));
        let machine_type = SIMULATED_MACHINE_TYPE.to_owned();
        return Ok(Machines { hypervisor, machine_type, tasks, shutdown });
    }
    let qemu = QemuHypervisor::open(&config.qemu, tasks.clone(), shutdown.clone()).await?;
    let machine_type = qemu.default_machine_type();
    Ok(Machines { hypervisor: Arc::new(qemu), machine_type, tasks, shutdown })
}

/// What guests would run on: `kvm` or `tcg`.
pub async fn accelerator(config: &Config) -> Result<Verdict> {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let qemu = QemuHypervisor::open(&config.qemu, tasks, shutdown).await?;
    Ok(qemu.accel().clone())
}
