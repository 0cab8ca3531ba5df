//! A Debian guest that runs: booting it, running commands in it, and ending it
//! in order or by a power cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::agent::{Agent, Ran};
use crate::accel::Accelerator;
use crate::kernel::Kernel;
use crate::qemu::{self, Guest};

/// Enough for systemd, the daemon and two VMs of the lab, in MiB.
const MEMORY_MIB: u64 = 1536;
/// One for what is tested, one for the VMs that it runs.
const VCPUS: u32 = 2;
/// How long a boot may take until systemd has started everything: 15 s with an
/// emulated processor on an idle machine, ten times that on a busy one.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long a question about the guest itself may take.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// The socket of the agent that executes commands.
const AGENT_SOCKET: &str = "commands.sock";
/// After what every guest of the lab has on its kernel's command line: what
/// systemd does is shown on the console, in order.
const CMDLINE: &str = "systemd.show_status=1 systemd.log_color=0";

/// What to boot.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The initial RAM file system, as [`super::initrd`] writes it.
    pub initrd: &'a Path,
    /// The disk, as [`super::disk`] makes it. It is written to.
    pub disk: &'a Path,
    /// How the processor is had.
    pub accelerator: Accelerator,
}

/// A running Debian. It is killed with this value, as by a power cut: what it
/// had not synced is lost to its disk.
#[derive(Debug)]
pub struct Debian {
    guest: Guest,
    folder: PathBuf,
}

impl Debian {
    /// Boots and waits until systemd has started everything. The console and the
    /// sockets lie in `folder`, whose path must be short.
    ///
    /// # Errors
    /// When QEMU cannot be started, systemd is not done within [`BOOT_LIMIT`], or
    /// a unit failed: the error tells which.
    pub fn boot(boot: &Boot<'_>, folder: &Path) -> Result<Self> {
        let mut debian = Self::start(boot, folder)?;
        debian.wait_until_running(BOOT_LIMIT)?;
        Ok(debian)
    }

    /// Starts QEMU and waits for nothing.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(boot: &Boot<'_>, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(arguments(boot, folder));
        Ok(Self { guest: Guest::spawn(command, folder)?, folder: folder.to_owned() })
    }

    /// Waits until systemd has started everything.
    ///
    /// # Errors
    /// As [`Debian::boot`].
    pub fn wait_until_running(&mut self, limit: Duration) -> Result<()> {
        let ran = self.run("systemctl is-system-running --wait", limit)?;
        if ran.output.trim() != "running" {
            let failed = self.run(
                "systemctl --failed --no-legend; journalctl -b --no-pager -p warning -n 40",
                LOOK_LIMIT,
            )?;
            bail!("the guest is {}: {}", ran.output.trim(), failed.output);
        }
        Ok(())
    }

    /// Runs a script of the shell, as root, to its end.
    ///
    /// # Errors
    /// When it does not end within `limit`, or the guest's agent cannot be
    /// reached; not when the script fails.
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<Ran> {
        let until = Instant::now() + limit;
        self.finish(script, until)
            .with_context(|| format!("the guest's command `{script}`"))
            .with_context(|| self.guest.last_words())
    }

    /// Runs a script and gives its standard output.
    ///
    /// # Errors
    /// As [`Debian::run`], and when it fails.
    pub fn check(&mut self, script: &str, limit: Duration) -> Result<String> {
        let ran = self.run(script, limit)?;
        if ran.status != Some(0) {
            bail!("`{script}` failed ({:?}): {}{}", ran.status, ran.output, ran.errors);
        }
        Ok(ran.output)
    }

    /// Begins a script and does not wait for it.
    ///
    /// # Errors
    /// When the guest's agent cannot be reached.
    pub fn begin(&mut self, script: &str) -> Result<()> {
        Agent::connect(&self.socket(), Instant::now() + LOOK_LIMIT)?.start(script).map(drop)
    }

    /// Shuts the guest down in order and waits until QEMU has ended.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn power_off(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.begin("systemctl poweroff")?;
        self.guest.wait_for_exit(limit)
    }

    /// Ends it as a power cut does, and waits until QEMU is gone.
    pub fn kill(self) {
        drop(self);
    }

    /// What the guest wrote to its console since QEMU began.
    #[must_use]
    pub fn console(&self) -> String {
        self.guest.console()
    }

    /// The process id of QEMU.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.guest.pid()
    }

    fn finish(&self, script: &str, until: Instant) -> Result<Ran> {
        let mut agent = Agent::connect(&self.socket(), until)?;
        let pid = agent.start(script)?;
        loop {
            if let Some(ran) = agent.ended(pid)? {
                return Ok(ran);
            }
            if Instant::now() >= until {
                bail!("it did not end in time");
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(AGENT_SOCKET)
    }
}

fn arguments(boot: &Boot<'_>, folder: &Path) -> Vec<std::ffi::OsString> {
    let small = qemu::Boot {
        kernel: &boot.kernel.image,
        initrd: boot.initrd,
        options: CMDLINE,
        accelerator: boot.accelerator,
        network: false,
        disk: Some(boot.disk),
        ports: &[],
    };
    let mut arguments = qemu::arguments(&small, folder);
    // Of an option that comes twice the last one holds.
    arguments.extend(["-smp".into(), VCPUS.to_string().into()]);
    arguments.extend(["-m".into(), format!("{MEMORY_MIB}M").into()]);
    arguments.extend(["-chardev".into(), qemu::socket("commands", &folder.join(AGENT_SOCKET))]);
    let port = "virtserialport,chardev=commands,name=org.qemu.guest_agent.0";
    arguments.extend(["-device".into(), port.into()]);
    arguments
}
