//! The guest in which agents are measured side by side: the lab's, with the
//! peers beside our agent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab::Tree;
use lab::accel::{self, Accelerator};
use lab::guest::Contents;
use lab::kernel::Kernel;
use lab::program::find;
use lab::qemu::{self, Boot};

/// qemu-ga's own port.
pub const QEMU_GA_PORT: &str = "org.qemu.guest_agent.0";

const FILES: &[(&str, u32, &str)] = &[
    ("etc/inittab", 0o644, include_str!("../guest/inittab")),
    ("etc/bench/peers", 0o755, include_str!("../guest/peers")),
    ("etc/bench/memory", 0o755, include_str!("../guest/memory")),
];

/// All that is needed to boot such guests.
pub struct Bench {
    kernel: Kernel,
    initrd: PathBuf,
    accelerator: Accelerator,
    folder: PathBuf,
}

/// A guest that runs, and where its agents' ports end on the host.
pub struct Guest {
    /// The machine.
    pub machine: qemu::Guest,
    /// The host's end of our agent's port.
    pub ours: PathBuf,
    /// The host's end of qemu-ga's port.
    pub qemu_ga: PathBuf,
}

impl Bench {
    /// Builds the guest's contents into `folder`, whose path must be short.
    pub fn prepare(daemon: &Path, agent: &Path, folder: &Path) -> Result<Self> {
        let say = |line: &str| eprintln!("{line}");
        let tree = Tree::locate()?;
        let kernel = lab::kernel::obtain(&tree, &say)?;
        let initrd = folder.join("initrd");
        let peers = [
            find("qemu-ga").context("install qemu-guest-agent")?,
            find("prometheus-node-exporter").context("install prometheus-node-exporter")?,
        ];
        let contents =
            Contents { kernel: &kernel, agent: Some(agent), programs: &peers, files: FILES };
        lab::guest::build(&contents, &initrd)?;
        let accelerator = accel::find(&tree, daemon)?;
        Ok(Self { kernel, initrd, accelerator, folder: folder.to_owned() })
    }

    /// Boots a guest and waits until its programs run.
    pub fn boot(&self, options: &str) -> Result<Guest> {
        let boot = Boot {
            kernel: &self.kernel.image,
            initrd: &self.initrd,
            options,
            accelerator: self.accelerator,
            network: true,
            disk: None,
            ports: &[QEMU_GA_PORT],
        };
        let mut machine = qemu::Guest::start(&boot, &self.folder)?;
        machine.wait_for_console(lab::guest::USERSPACE_IS_UP, qemu::BOOT_LIMIT)?;
        let ours = machine.channel_path();
        Ok(Guest { machine, ours, qemu_ga: self.folder.join(QEMU_GA_PORT) })
    }
}
