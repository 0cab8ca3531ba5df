//! The demo's two VMs: what they are made of, how they are started, and when
//! they have told everything. Everything goes through `vmmctl`, as an operator
//! would do it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use lab::daemon::Settings;
use lab::kernel::Kernel;
use lab::{guest, program, wait};
use vmm_api::guest::{AgentState, Guest};
use vmm_api::vm::{DiskFormat, DiskSpec, Network, NicSpec, VmList, VmSpec};

use super::interrupt::Interrupt;
use super::progress::Progress;

/// The names of the VMs.
const NAMES: [&str; 2] = ["demo-1", "demo-2"];
/// Enough for busybox and the agent, and little enough for any host.
const MEMORY_MIB: u64 = 256;
/// The size of each VM's disk, in bytes; nothing is written but a file system.
const DISK_BYTES: u64 = 64 * 1024 * 1024;
/// Until both have told everything: 10 s are usual with an emulated processor,
/// and a busy machine may take many times that.
const FACTS_LIMIT: Duration = Duration::from_secs(180);
/// The agent reports every second, so its last word is never older than this,
/// in seconds.
const FRESH_S: f64 = 5.0;
/// The lines of a VM's console that an error repeats.
const CONSOLE_LINES: &str = "25";
/// How long a guest may take to shut down before it is killed, in seconds.
const STOP_S: &str = "10";

/// The two VMs, ready to be created.
pub struct Guests {
    specs: Vec<PathBuf>,
}

impl Guests {
    /// Makes their disks, their initial RAM file system and their
    /// specifications.
    pub fn prepare(settings: &Settings, kernel: &Kernel, agent: &Path) -> Result<Self> {
        let folder = &settings.folder;
        let initrd = folder.join("initrd");
        guest::build(
            &guest::Contents { kernel, agent: Some(agent), programs: &[], files: &[] },
            &initrd,
        )?;
        let specs = NAMES
            .iter()
            .map(|name| {
                let disk = folder.join(format!("{name}.raw"));
                File::create(&disk)
                    .and_then(|file| file.set_len(DISK_BYTES))
                    .with_context(|| format!("cannot make {}", disk.display()))?;
                let spec = folder.join(format!("{name}.toml"));
                let text = toml::to_string(&specification(name, kernel, &initrd, &disk)?)
                    .context("cannot write a specification as TOML")?;
                fs::write(&spec, text)
                    .with_context(|| format!("cannot write {}", spec.display()))?;
                Ok(spec)
            })
            .collect::<Result<_>>()?;
        Ok(Self { specs })
    }

    /// Creates both and starts both.
    pub fn create_and_start(
        &self,
        settings: &Settings,
        interrupt: &Interrupt,
        progress: &Progress,
    ) -> Result<()> {
        for spec in &self.specs {
            program::output(settings.vmmctl().arg("create").arg("--file").arg(spec))?;
        }
        interrupt.check()?;
        progress.say(&format!("booting {}", NAMES.join(" and ")));
        program::output(settings.vmmctl().arg("start").args(NAMES))?;
        interrupt.check()
    }

    /// Waits until both have told all that the demo shows.
    pub fn wait_for_facts(
        &self,
        settings: &Settings,
        interrupt: &Interrupt,
        progress: &Progress,
    ) -> Result<()> {
        for name in NAMES {
            let mut missing = "an answer";
            wait::until(&format!("all facts of {name}"), FACTS_LIMIT, || {
                interrupt.check()?;
                let guest = ask(settings, name)?;
                let now = what_is_missing(&guest);
                if let Some(now) = now
                    && now != missing
                {
                    progress.say(&format!("{name}: waiting for {now}"));
                    missing = now;
                }
                Ok(now.is_none().then_some(()))
            })
            .with_context(|| format!("{name} has not told {missing}"))?;
            progress.say(&format!("{name}: the agent has told everything"));
        }
        Ok(())
    }

    /// Prints what both tell.
    pub fn print(&self, settings: &Settings, interrupt: &Interrupt) -> Result<()> {
        for name in NAMES {
            interrupt.check()?;
            println!();
            super::run_shown(settings.vmmctl().args(["guest", name]))?;
        }
        println!();
        Ok(())
    }

    /// An error with what the machines themselves said, and what to do.
    pub fn explain(&self, settings: &Settings, error: Error) -> Error {
        if error.root_cause().to_string() == "interrupted" {
            return error;
        }
        let mut words = String::from("the demo failed\n");
        for name in NAMES {
            let console =
                program::output(settings.vmmctl().args(["log", name, "--lines", CONSOLE_LINES]));
            if let Ok(console) = console {
                let console = String::from_utf8_lossy(&console).into_owned();
                words.push_str(&format!("-- the console of {name} ends with:\n{console}\n"));
            }
        }
        words.push_str(&format!("-- the daemon's log ends with:\n{}\n", settings.log_tail()));
        words.push_str("-- run it again; if it fails the same way, report it with the lines above");
        error.context(words)
    }
}

/// Ends and deletes every VM of this daemon, whatever made it.
pub fn end_all(settings: &Settings) -> Result<()> {
    let list = program::output(settings.vmmctl().args(["list", "--output", "json"]))?;
    let list: VmList = serde_json::from_slice(&list).context("vmmctl list is no list of VMs")?;
    let names: Vec<String> = list.vms.into_iter().map(|vm| vm.spec.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    // A VM that is down already refuses to stop; what counts is that the
    // deletion succeeds, and that refuses whatever runs.
    let stopped =
        program::output(settings.vmmctl().args(["stop", "--force-after", STOP_S]).args(&names));
    program::output(settings.vmmctl().args(["delete", "--yes"]).args(&names)).map(drop).map_err(
        |error| match stopped {
            Ok(_) => error,
            Err(stopping) => error.context(stopping),
        },
    )
}

fn specification(name: &str, kernel: &Kernel, initrd: &Path, disk: &Path) -> Result<VmSpec> {
    Ok(VmSpec {
        name: name.to_owned(),
        vcpus: 1,
        memory_mib: MEMORY_MIB,
        kernel: Some(text(&kernel.image)?),
        initrd: Some(text(initrd)?),
        cmdline: Some(format!("{} lab.hostname={name}", guest::CMDLINE)),
        disks: vec![DiskSpec { path: text(disk)?, format: DiskFormat::Raw, read_only: false }],
        nics: vec![NicSpec { network: Network::Isolated, mac: None }],
        labels: [("made-by".to_owned(), "demo".to_owned())].into(),
        autostart: false,
    })
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| {
        format!("{} is not UTF-8: move the checkout to a path that is", path.display())
    })?;
    Ok(text.to_owned())
}

fn ask(settings: &Settings, name: &str) -> Result<Guest> {
    let answer = program::output(settings.vmmctl().args(["guest", name, "--output", "json"]))?;
    serde_json::from_slice(&answer).with_context(|| format!("vmmctl guest {name} is no guest"))
}

/// The first of the demo's facts that has not come yet.
fn what_is_missing(guest: &Guest) -> Option<&'static str> {
    let facts = &guest.facts;
    let has_address = |facts: &guest_protocol::facts::Facts| {
        let interfaces = facts.interfaces.iter().flatten();
        interfaces.filter(|(name, _)| *name != "lo").any(|(_, one)| !one.addresses.is_empty())
    };
    [
        (guest.summary.agent == AgentState::Connected, "its agent"),
        (facts.os.as_ref().is_some_and(|os| !os.pretty_name.is_empty()), "its system"),
        (facts.cpu.as_ref().is_some_and(|cpu| cpu.usage_percent.is_some()), "its processors' use"),
        (facts.memory.is_some(), "its memory"),
        (facts.disks.as_ref().is_some_and(|disks| !disks.is_empty()), "its disks"),
        (facts.filesystems.as_ref().is_some_and(|all| !all.is_empty()), "its file systems"),
        (has_address(facts), "an address"),
        (facts.uptime.is_some(), "its uptime"),
        (guest.summary.age_s.is_some_and(|age| age < FRESH_S), "a fresh report"),
    ]
    .into_iter()
    .find_map(|(there, what)| (!there).then_some(what))
}

#[cfg(test)]
mod tests {
    use guest_protocol::facts::{Cpu, Disk, Facts, Filesystem, Interface, Memory, Os, Uptime};

    use super::*;

    fn complete() -> Guest {
        let facts = Facts {
            os: Some(Os { pretty_name: "x".into(), ..Os::default() }),
            cpu: Some(Cpu { usage_percent: Some(1.0), ..Cpu::default() }),
            memory: Some(Memory::default()),
            uptime: Some(Uptime::default()),
            disks: Some([("vda".into(), Disk::default())].into()),
            filesystems: Some([("/data".into(), Filesystem::default())].into()),
            interfaces: Some(
                [(
                    "eth0".into(),
                    Interface { addresses: vec!["10.0.2.15/24".into()], ..Interface::default() },
                )]
                .into(),
            ),
            ..Facts::default()
        };
        let mut guest = Guest { facts, ..Guest::default() };
        guest.summary.agent = AgentState::Connected;
        guest.summary.age_s = Some(0.4);
        guest
    }

    #[test]
    fn a_guest_that_told_everything_lacks_nothing() {
        assert_eq!(what_is_missing(&complete()), None);
    }

    #[test]
    fn the_loopback_address_is_no_address_and_old_news_is_no_news() {
        let mut guest = complete();
        let interfaces = guest.facts.interfaces.as_mut().unwrap();
        let eth0 = interfaces.remove("eth0").unwrap();
        interfaces.insert("lo".into(), eth0);
        assert_eq!(what_is_missing(&guest), Some("an address"));
        let mut guest = complete();
        guest.summary.age_s = Some(7.0);
        assert_eq!(what_is_missing(&guest), Some("a fresh report"));
        assert_eq!(what_is_missing(&Guest::default()), Some("its agent"));
    }

    #[test]
    fn a_specification_survives_toml() {
        let kernel = Kernel { release: "6".into(), image: "/k'\"\\,".into(), modules: Vec::new() };
        let spec = specification("demo-1", &kernel, Path::new("/i"), Path::new("/d")).unwrap();
        let text = toml::to_string(&spec).unwrap();
        assert_eq!(toml::from_str::<VmSpec>(&text).unwrap(), spec);
    }
}
