//! The peer: libvirtd with like domains, in namespaces of its own, so that a
//! libvirtd of this host is not disturbed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::accel::Accelerator;
use lab::program::{find, output};
use rustix::process::Signal;

use super::world::{Inhabitant, World};
use super::{Answers, LIMIT, LOOK_AGAIN, Machine};

/// What libvirt keeps outside of `/run`.
const FOLDERS: &[&str] =
    &["/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"];

/// Without virtlogd, a daemon of its own that only keeps logs.
const CONFIGURATION: &str = "stdio_handler = \"file\"\n";

/// libvirtd and its domains.
pub struct Libvirt {
    daemon: Option<Inhabitant>,
    _bus: Inhabitant,
    log: PathBuf,
    virsh: PathBuf,
    /// Declared last: everything else ends before it.
    world: World,
}

impl Libvirt {
    /// Starts libvirtd and all machines; `folder` is for descriptions and logs.
    pub fn prepare(folder: &Path, accelerator: Accelerator, machines: &[Machine]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let world = World::new(FOLDERS)?;
        fs::create_dir_all(world.path(Path::new("/run/dbus")))?;
        fs::write(world.path(Path::new("/etc/libvirt/qemu.conf")), CONFIGURATION)?;
        let mut bus = world.command(&find("dbus-daemon").context("install dbus-daemon")?);
        bus.args(["--system", "--nofork", "--nopidfile"]).stderr(Stdio::null());
        let mut libvirt = Self {
            daemon: None,
            _bus: Inhabitant::start(bus)?,
            log: folder.join("libvirtd.log"),
            virsh: find("virsh").context("install libvirt-clients")?,
            world,
        };
        libvirt.start()?;
        libvirt.until_it_listens()?;
        let mut script = String::new();
        for machine in machines {
            let description = folder.join(format!("{}.xml", machine.name));
            fs::write(&description, domain(machine, accelerator))?;
            write!(script, "create {};", description.display())?;
        }
        libvirt.virsh(&script)?;
        Ok(libvirt)
    }

    /// Ends libvirtd by this signal and starts it anew.
    pub fn restart(&mut self, signal: Signal, machines: &[Machine]) -> Result<Answers> {
        self.daemon.take().context("libvirtd does not run")?.end(signal)?;
        let begun = Instant::now();
        self.start()?;
        self.until_it_listens()?;
        self.ask(machines)?;
        let known = begun.elapsed();
        self.ask_monitors(machines)?;
        Ok(Answers { known, reached: begun.elapsed() })
    }

    /// Asks for the list and for each domain, by one virsh: all must run.
    pub fn ask(&self, machines: &[Machine]) -> Result<Duration> {
        let begun = Instant::now();
        let mut script = String::from("list;");
        for machine in machines {
            write!(script, "domstate {};", machine.name)?;
        }
        let answer = self.virsh(&script)?;
        let running = answer.lines().filter(|line| line.contains("running")).count();
        ensure!(running == 2 * machines.len(), "not all domains run:\n{answer}");
        Ok(begun.elapsed())
    }

    /// Asks each domain's QEMU.
    fn ask_monitors(&self, machines: &[Machine]) -> Result<()> {
        let mut script = String::new();
        for machine in machines {
            write!(script, "qemu-monitor-command {} --hmp info status;", machine.name)?;
        }
        let answer = self.virsh(&script)?;
        let running = answer.lines().filter(|line| line.contains("running")).count();
        ensure!(running == machines.len(), "not all machines run:\n{answer}");
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.world.command(&find("libvirtd").context("install libvirtd")?);
        command.stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(Inhabitant::start(command)?);
        Ok(())
    }

    /// Waits until libvirtd accepts connections; it serves them when it has
    /// found its domains.
    fn until_it_listens(&mut self) -> Result<()> {
        let socket = self.world.path(Path::new("/run/libvirt/libvirt-sock"));
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(&socket).is_err() {
            if let Some(daemon) = &mut self.daemon {
                daemon.still_runs().with_context(|| format!("see {}", self.log.display()))?;
            }
            if Instant::now() > deadline {
                bail!("libvirtd does not listen; see {}", self.log.display());
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(())
    }

    fn virsh(&self, script: &str) -> Result<String> {
        let mut command: Command = self.world.command(&self.virsh);
        command.args(["--quiet", "--connect", "qemu:///system", script]);
        let answer = output(&mut command)
            .with_context(|| format!("libvirtd's log is {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// The same machine as libvirt describes it.
fn domain(machine: &Machine, accelerator: Accelerator) -> String {
    let kind = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "qemu",
    };
    let mut boot = format!("<kernel>{}</kernel>", machine.kernel.display());
    if let Some(initrd) = &machine.initrd {
        let (initrd, cmdline) = (initrd.display(), lab::guest::CMDLINE);
        boot += &format!("<initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>");
    }
    format!(
        "<domain type='{kind}'><name>{}</name><memory unit='MiB'>{}</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os><features><acpi/></features>\
         <cpu mode='maximum'/><clock offset='utc'><timer name='hpet' present='no'/></clock>\
         <devices><serial type='pty'/><controller type='usb' model='none'/>\
         <channel type='unix'><target type='virtio' name='org.infinibay.agent'/></channel>\
         <rng model='virtio'><backend model='builtin'/></rng><memballoon model='none'/>\
         </devices></domain>",
        machine.name, machine.memory_mib
    )
}
