//! A daemon that comes back: how long until all VMs that ran meanwhile answer
//! again, by `vmm-service` and by libvirtd with the same machines.

mod libvirt;
mod ours;
mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::accel::{self, Accelerator};
use lab::build::HostPrograms;
use lab::daemon::Settings;
use lab::guest::Contents;
use lab::qemu::MEMORY_MIB;
use lab::results::{self, Table};
use rustix::process::Signal;

use crate::samples::Samples;
use libvirt::Libvirt;
use ours::Ours;

/// How many machines are there and do nothing.
const QUIET: usize = 100;
/// How many run a guest with an agent.
const TALKING: usize = 5;
/// Restarts of each daemon by each signal, in turn.
const ROUNDS: usize = 7;
/// How many machines are started at once: each start is some seconds of work.
const AT_ONCE: usize = 4;
/// As little memory as a specification may ask for, in MiB.
const QUIET_MEMORY_MIB: u64 = 16;
/// How long a daemon may take to come back.
const LIMIT: Duration = Duration::from_secs(60);
/// How soon a daemon that does not listen yet is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A machine on either side.
struct Machine {
    name: String,
    memory_mib: u64,
    kernel: PathBuf,
    /// With it the kernel is Linux, and there is an agent.
    initrd: Option<PathBuf>,
}

/// How long after a daemon's start its VMs answered.
struct Answers {
    /// Every VM is listed as running, and every one was asked for.
    known: Duration,
    /// Ours: every agent has said hello. libvirt: every monitor answered, which
    /// ours has done before it is listed.
    reached: Duration,
}

/// Measures and publishes; with `once` a single round with so many quiet
/// machines, which is only printed.
pub fn run(programs: &Path, agent: &Path, once: Option<usize>) -> Result<()> {
    let (quiet, rounds) = once.map_or((QUIET, ROUNDS), |quiet| (quiet, 1));
    let folder = tempfile::Builder::new().prefix("ib-bench-").tempdir_in("/tmp")?;
    // QEMU runs as somebody else and must reach its kernel.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open)?;
    let machines = machines(folder.path(), agent, quiet)?;
    let programs = std::path::absolute(programs)?;
    let settings = Settings {
        programs: HostPrograms {
            daemon: programs.join("vmm-service"),
            vmmctl: programs.join("vmmctl"),
        },
        folder: folder.path().join("d"),
        environment: Vec::new(),
    };
    eprintln!("starting {} machines under libvirtd", machines.len());
    let accelerator = accel::find(&lab::Tree::locate()?, &settings.programs.daemon)?;
    let mut theirs = Libvirt::prepare(&folder.path().join("l"), accelerator, &machines)
        .context("libvirt's side")?;
    eprintln!("starting {} machines under vmm-service", machines.len());
    let mut ours = Ours::prepare(settings, &machines).context("our side")?;

    // The first restarts are not counted: they warm the page cache.
    theirs.restart(Signal::TERM, &machines)?;
    ours.restart(Signal::TERM, &machines)?;
    let mut figures = Figures::default();
    for round in 1..=rounds {
        for (signal, by) in [(Signal::TERM, &mut figures.stop), (Signal::KILL, &mut figures.kill)] {
            by.theirs.push(&theirs.restart(signal, &machines)?);
            by.ours.push(&ours.restart(signal, &machines)?);
        }
        figures.theirs_asking.push(milliseconds(theirs.ask(&machines)?));
        figures.ours_asking.push(milliseconds(ours.ask(&machines)?));
        eprintln!(
            "round {round} of {rounds}: libvirtd {:.0} ms, vmm-service {:.0} ms",
            figures.kill.theirs.known, figures.kill.ours.reached
        );
    }
    if once.is_some() { Ok(()) } else { publish(&figures, accelerator) }
}

/// The machines of one side.
fn machines(folder: &Path, agent: &Path, quiet: usize) -> Result<Vec<Machine>> {
    let tree = lab::Tree::locate()?;
    let kernel = lab::kernel::obtain(&tree, &|line| eprintln!("{line}"))?;
    let initrd = folder.join("initrd");
    let contents = Contents { kernel: &kernel, agent: Some(agent), programs: &[], files: &[] };
    lab::guest::build(&contents, &initrd)?;
    // A copy of its own: libvirt gives what a domain boots to the domain's user.
    let linux = folder.join("linux");
    std::fs::copy(&kernel.image, &linux)?;
    let halt = folder.join("halt");
    std::fs::write(&halt, halting_kernel())?;
    let quiet = (0..quiet).map(|index| Machine {
        name: format!("quiet{index}"),
        memory_mib: QUIET_MEMORY_MIB,
        kernel: halt.clone(),
        initrd: None,
    });
    let talking = (0..TALKING).map(|index| Machine {
        name: format!("talking{index}"),
        memory_mib: MEMORY_MIB,
        kernel: linux.clone(),
        initrd: Some(initrd.clone()),
    });
    Ok(quiet.chain(talking).collect())
}

/// A kernel in the oldest form that boot loaders know, a boot sector and setup
/// code in real mode, which stops the timer and halts for ever: hundreds of such
/// machines cost the host no time, and what is measured is the daemons.
fn halting_kernel() -> Vec<u8> {
    /// Where the number of setup sectors stands.
    const SETUP_SECTORS: usize = 0x1f1;
    const SECTOR: usize = 512;
    // cli; the timer's first counter: once, after 65,536 ticks; hlt; and again
    // if something wakes it.
    let code = [0xfa, 0xb0, 0x30, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xe6, 0x40, 0xf4, 0xeb, 0xfd];
    let mut image = vec![0; 6 * SECTOR];
    image[SETUP_SECTORS] = 4;
    image[SECTOR..SECTOR + code.len()].copy_from_slice(&code);
    image
}

/// All in milliseconds.
#[derive(Default)]
struct Figures {
    stop: Pair,
    kill: Pair,
    theirs_asking: Samples,
    ours_asking: Samples,
}

#[derive(Default)]
struct Pair {
    theirs: Side,
    ours: Side,
}

#[derive(Default)]
struct Side {
    known: Samples,
    reached: Samples,
}

impl Side {
    fn push(&mut self, answers: &Answers) {
        self.known.push(milliseconds(answers.known));
        self.reached.push(milliseconds(answers.reached));
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn publish(figures: &Figures, accelerator: Accelerator) -> Result<()> {
    let rows = |how: &str, pair: &Pair| {
        let peer = &pair.theirs.known;
        let row = |who: &str, side: &Side| {
            vec![
                format!("{who}, {how}"),
                format!("{:.0}", side.known),
                format!("{:.0}", side.reached),
                format!("{:.2}", side.reached.ratio(peer)),
            ]
        };
        [row("libvirtd", &pair.theirs), row("vmm-service", &pair.ours)]
    };
    let asking = |who: &str, samples: &Samples| {
        vec![format!("{who}, not restarted"), format!("{samples:.0}"), String::new(), String::new()]
    };
    let mut table = Vec::new();
    table.extend(rows("stopped and started", &figures.stop));
    table.extend(rows("killed and started", &figures.kill));
    table.push(asking("libvirtd", &figures.theirs_asking));
    table.push(asking("vmm-service", &figures.ours_asking));
    let accelerator = accelerator.as_str();
    results::publish(
        "restart-adopt",
        &Table {
            head: vec![
                "from the start of the daemon",
                "ms until all VMs are listed and answer",
                "ms until all are reached",
                "all reached ÷ libvirtd's first column",
            ],
            rows: table,
            notes: vec![format!(
                "Each daemon has {QUIET} machines of {QUIET_MEMORY_MIB} MiB whose kernel halts at \
                 once and {TALKING} that run the lab's guest, all under {accelerator}; \
                 {ROUNDS} rounds in turn. Listed: the list and one question for each VM are \
                 answered, each of them running (virsh: `list` and `domstate`). Reached: with \
                 libvirtd every QEMU's monitor answered too, which `domstate` does not wait for; \
                 with vmm-service, which lists no VM before its monitor has answered, every agent \
                 has said hello again. libvirtd runs without control groups, and its folders are \
                 in memory. To reach: less than libvirtd."
            )],
        },
    )
}
