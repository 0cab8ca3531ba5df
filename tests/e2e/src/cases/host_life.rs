//! The daemon on a host as it is meant to be: a whole Debian whose systemd runs
//! the units of `config/systemd/`, with virtual machines within it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::debian::{self, Boot, Debian, File};
use lab::wait;
use serde_json::Value;

use crate::scene::Scene;

/// How long a command in the guest may take: systemd and the daemon, emulated, on
/// a busy machine.
const COMMAND: Duration = Duration::from_secs(120);
/// How long a guest within the guest may take to boot: its processor is emulated
/// by an emulated one, ten times slower again.
const NESTED_BOOT: Duration = Duration::from_secs(400);
/// How long the host may take to go down, its own guests first.
const SHUTDOWN: Duration = Duration::from_secs(240);

const DAEMON_UNIT: &str = include_str!("../../../../config/systemd/vmm-service.service");
const GUESTS_UNIT: &str = include_str!("../../../../config/systemd/infinibay-guests.service");

/// A boot sector, for SeaBIOS on q35: enables the power button, says so on the
/// console, and sleeps until the button is pressed; then powers off. A guest that
/// is up in a second and costs nothing.
const BUTTON_GUEST: &[u8] = &[
    0xba, 0x02, 0x06, // mov dx, 0x602   the events that are enabled
    0xb8, 0x00, 0x01, // mov ax, 0x100   the power button
    0xef, //             out dx, ax
    0xba, 0xf8, 0x03, // mov dx, 0x3f8   the serial port
    0xb0, b'!', //       mov al, '!'
    0xee, //             out dx, al
    0xba, 0x00, 0x06, // mov dx, 0x600   the events that happened
    0xfb, //             again: sti
    0xf4, //             hlt
    0xed, //             in ax, dx
    0xf6, 0xc4, 0x01, // test ah, 1      the power button
    0x74, 0xf8, //       jz again
    0xba, 0x04, 0x06, // mov dx, 0x604   the power states
    0xb8, 0x00, 0x20, // mov ax, 0x2000  go off
    0xef, //             out dx, ax
    0xeb, 0xfe, //       jmp $
];

/// A host, and the disk that it boots from.
struct Host {
    scene: Scene,
    disk: PathBuf,
    initrd: PathBuf,
    accelerator: lab::accel::Accelerator,
}

impl Host {
    /// A fresh disk with the programs, the units and what guests are made of.
    fn new(scene: &Scene) -> Result<Self> {
        let stage = scene.stage();
        let (image, accelerator) = stage.debian()?;
        let folder = scene.folder();
        let (disk, initrd) = (folder.join("disk"), folder.join("debian.initrd"));
        let sector = folder.join("button");
        let mut bytes = BUTTON_GUEST.to_vec();
        bytes.resize(510, 0);
        bytes.extend([0x55, 0xaa]);
        // SeaBIOS boots from no disk that is smaller than a cylinder.
        bytes.resize(1 << 20, 0);
        std::fs::write(&sector, bytes)?;
        let button = |name: &str| {
            format!(
                "name = '{name}'\nvcpus = 1\nmemory_mib = 64\n[[disks]]\npath = '/srv/button'\n\
                 format = 'raw'\nread_only = true\n"
            )
        };
        let agent = format!(
            "name = 'web'\nvcpus = 1\nmemory_mib = 256\nautostart = true\nkernel = '/srv/vmlinuz'\n\
             initrd = '/srv/initrd'\ncmdline = '{}'\n",
            lab::guest::CMDLINE
        );
        let files = [
            File::program("/usr/bin/vmm-service", &stage.programs.daemon),
            File::program("/usr/bin/vmmctl", &stage.programs.vmmctl),
            File::text("/etc/systemd/system/vmm-service.service", DAEMON_UNIT),
            File::text("/etc/systemd/system/infinibay-guests.service", GUESTS_UNIT),
            File::copy("/srv/vmlinuz", &stage.kernel.image),
            File::copy("/srv/initrd", &stage.initrd()),
            File::copy("/srv/button", &sector),
            File::text("/srv/web.toml", &agent),
            File::text("/srv/db.toml", &button("db")),
            File::text("/srv/idle.toml", &button("idle")),
        ];
        debian::initrd(&stage.kernel, &files, &initrd)?;
        debian::disk(&image, &disk)?;
        Ok(Self { scene: scene.clone(), disk, initrd, accelerator })
    }

    fn boot(&self) -> Result<Running> {
        let boot = Boot {
            kernel: &self.scene.stage().kernel,
            initrd: &self.initrd,
            disk: &self.disk,
            accelerator: self.accelerator,
        };
        self.scene.stage().count_guest();
        Ok(Running { debian: Debian::boot(&boot, &self.scene.folder().join("host"))? })
    }
}

/// A host that runs.
struct Running {
    debian: Debian,
}

impl Running {
    /// Runs a script; when it fails, the units' last words are told with it.
    fn sh(&mut self, script: &str) -> Result<String> {
        match self.debian.check(script, COMMAND) {
            Ok(output) => Ok(output),
            Err(error) => {
                let journal = "journalctl -b -n 40 -o cat --no-pager -u vmm-service.service -u \
                               infinibay-guests.service -u 'infinibay-vm-*'";
                let said = self.debian.run(journal, COMMAND)?.output;
                Err(error.context(format!("the units said: {said}")))
            }
        }
    }

    fn vm(&mut self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.sh(&format!("vmmctl info {name} -o json"))?)?)
    }

    fn state(&mut self, name: &str) -> Result<String> {
        Ok(self.vm(name)?["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the boot sector listens to its power button.
    fn button_is_heard(&mut self, name: &str) -> Result<()> {
        let script = format!("vmmctl log {name}");
        wait::until(&format!("{name} at its power button"), COMMAND, || {
            Ok(self.sh(&script)?.contains('!').then_some(()))
        })
    }

    /// The daemon's process, once it is ready.
    fn daemon(&mut self) -> Result<String> {
        wait::until("the daemon", COMMAND, || {
            let script = "systemctl is-active vmm-service; systemctl show -P MainPID vmm-service";
            let told = self.debian.run(script, COMMAND)?.output;
            Ok(told.strip_prefix("active\n").map(|pid| pid.trim().to_owned()))
        })
    }

    /// Fails unless the machines are still the processes that they were.
    fn live_on(&mut self, machines: &[(&str, Value)]) -> Result<()> {
        for (name, before) in machines {
            let now = self.vm(name)?;
            ensure!(
                now["state"] == "running" && now["pid"] == before["pid"],
                "{name} was {before}, and is {now}"
            );
        }
        Ok(())
    }
}

/// The machines' scopes keep them through a restart, a stop and a kill of the
/// daemon; and the units are ones that systemd finds nothing to say about.
pub async fn machines_outlive_the_daemon(scene: Scene) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let host = Host::new(&scene)?;
        let mut host = host.boot()?;
        let units = "/etc/systemd/system/vmm-service.service \
                     /etc/systemd/system/infinibay-guests.service";
        let said = host.debian.run(&format!("systemd-analyze verify --man=no {units}"), COMMAND)?;
        ensure!(said.status == Some(0) && said.errors.is_empty(), "{}", said.errors);
        let score = "systemd-analyze security --no-pager vmm-service | tail -n 1";
        println!("{}", host.sh(score)?.trim());
        host.sh("systemctl enable --now vmm-service infinibay-guests")?;

        let mut machines = Vec::new();
        for name in ["db", "idle"] {
            host.sh(&format!("vmmctl create -f /srv/{name}.toml && vmmctl start {name}"))?;
            let vm = host.vm(name)?;
            let (id, pid) = (vm["id"].as_str().context("no id")?, &vm["pid"]);
            let group = host.sh(&format!("cat /proc/{pid}/cgroup"))?;
            ensure!(group.trim().ends_with(&format!("infinibay-vm-{id}.scope")), "{group}");
            ensure!(host.sh(&format!("cat /proc/{pid}/oom_score_adj"))?.trim() == "0");
            host.button_is_heard(name)?;
            machines.push((name, vm));
        }
        let first = host.daemon()?;
        ensure!(host.sh(&format!("cat /proc/{first}/oom_score_adj"))?.trim() == "-900");
        let kept = host.sh("systemctl show -P MainPID -P ControlGroup vmm-service")?;
        println!("{}", host.sh("systemd-cgls --no-pager /system.slice")?);

        host.sh("systemctl restart vmm-service")?;
        let second = host.daemon()?;
        ensure!(second != first, "{kept} was not restarted");
        host.live_on(&machines)?;

        host.sh("systemctl stop vmm-service")?;
        for (name, vm) in &machines {
            host.sh(&format!("kill -0 {}", vm["pid"])).with_context(|| (*name).to_owned())?;
        }
        host.sh("systemctl start vmm-service")?;
        host.live_on(&machines)?;

        let third = host.daemon()?;
        host.sh("systemctl kill --kill-who=main --signal=KILL vmm-service")?;
        wait::until("another daemon", COMMAND, || Ok((host.daemon()? != third).then_some(())))?;
        host.live_on(&machines)?;

        host.sh("vmmctl stop --all")?;
        for (name, _) in &machines {
            let vm = host.vm(name)?;
            ensure!(vm["state"] == "stopped" && vm["state_detail"].is_null(), "{vm}");
        }
        wait::until("the end of the scopes", COMMAND, || {
            let left =
                host.sh("systemctl list-units --all --plain --no-legend 'infinibay-vm-*'")?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
        host.debian.power_off(SHUTDOWN)?;
        Ok(())
    })
    .await?
}

/// A shutdown of the host asks every guest first, and lets the daemon see that.
/// The next boot starts those with autostart and no others; a restart of the
/// daemon starts none.
pub async fn a_host_goes_down_in_order_and_starts_what_is_to_be_started(
    scene: Scene,
) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let place = Host::new(&scene)?;
        let mut host = place.boot()?;
        host.sh("systemctl enable --now vmm-service infinibay-guests")?;
        for name in ["web", "db", "idle"] {
            host.sh(&format!("vmmctl create -f /srv/{name}.toml && vmmctl start {name}"))?;
        }
        host.sh("vmmctl set db --autostart on")?;
        host.button_is_heard("db")?;
        host.button_is_heard("idle")?;
        wait::until("the agent of the guest's guest", NESTED_BOOT, || {
            Ok((host.vm("web")?["guest"]["agent"] == "connected").then_some(()))
        })?;
        host.debian.power_off(SHUTDOWN)?;

        let mut host = place.boot()?;
        let told = host.sh("journalctl -b -1 -o cat --no-pager -u infinibay-guests.service")?;
        for name in ["web", "db", "idle"] {
            ensure!(told.contains(&format!("{name} stopped in ")), "{told}");
        }
        let ends = host.sh(
            "journalctl -b -1 -o cat --no-pager -u vmm-service.service -u infinibay-guests.service",
        )?;
        let guests = ends.find("Stopped infinibay-guests.service").context("no end of the guests");
        let daemon = ends.find("Stopping vmm-service.service").context("no end of the daemon");
        ensure!(guests? < daemon?, "the daemon was ended before the guests: {ends}");
        ensure!(!ends.contains("killed"), "a guest was not asked: {ends}");

        wait::until("the VMs with autostart", COMMAND, || {
            Ok((host.state("web")? == "running" && host.state("db")? == "running").then_some(()))
        })?;
        let idle = host.vm("idle")?;
        ensure!(idle["state"] == "stopped" && idle["state_detail"].is_null(), "{idle}");
        wait::until("what systemd shows", COMMAND, || {
            let status = host.sh("systemctl show -P StatusText vmm-service")?;
            Ok((status.trim() == "Started 2 VMs after the host's boot.").then_some(()))
        })?;

        host.button_is_heard("db")?;
        host.sh("vmmctl stop db && systemctl restart vmm-service")?;
        host.daemon()?;
        ensure!(host.state("web")? == "running" && host.state("db")? == "stopped");
        host.debian.kill();
        Ok(())
    })
    .await?
}
