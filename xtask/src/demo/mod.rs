//! `cargo xtask demo`: two real VMs that report to their host, on a machine
//! that has nothing of ours yet. Installs, builds, boots, shows, cleans up.

mod guests;
mod interrupt;
mod progress;

use std::fs::{self, File};
use std::io::IsTerminal;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::build::{self, HostPrograms, Profile};
use lab::daemon::{self, Daemon, Settings};
use lab::{Tree, program, wait};

use guests::Guests;
use interrupt::Interrupt;
use progress::Progress;

/// Two real virtual machines that report to their host; installs what is missing
#[derive(clap::Args)]
pub struct Args {
    /// Print what the guests tell and end, also on a terminal
    #[arg(long)]
    once: bool,
    /// Leave the daemon and the VMs running; the next demo cleans up
    #[arg(long)]
    keep: bool,
}

/// Where the demo keeps its state, below the checkout.
const FOLDER: &str = "var/demo";
/// Locked while a demo runs.
const LOCK: &str = "var/demo.lock";
/// After a Ctrl-C, for `vmmctl watch` to put the terminal right by itself.
const WATCH_END_LIMIT: Duration = Duration::from_secs(2);

/// Runs the demo, and cleans up whether it succeeds or not.
pub fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let progress = Progress::begin();
    let say = |line: &str| progress.say(line);
    let tree = Tree::locate()?;
    let _alone = lock(&tree)?;

    lab::packages::ensure(lab::packages::TO_BOOT_GUESTS, &say)?;
    lab::packages::ensure_guest_target(&tree, &say)?;
    // The download waits for the network, the compiler for the processor.
    let (kernel, programs) = std::thread::scope(|scope| {
        let kernel = scope.spawn(|| lab::kernel::obtain(&tree, &say));
        let programs = build(&tree, &progress);
        let kernel = kernel.join().expect("a panic has been reported by its thread");
        (kernel, programs)
    });
    // Ctrl-C ends the compiler, too; that is no failure of the build.
    interrupt.check()?;
    let (kernel, (programs, agent)) = (kernel?, programs?);

    let settings = Settings { programs, folder: tree.root().join(FOLDER), environment: Vec::new() };
    clear(&settings, &progress).context(
        "cannot clean up after an earlier demo; end its processes, remove var/demo, and run this \
         again",
    )?;
    fs::create_dir_all(&settings.folder)
        .with_context(|| format!("cannot make {}", settings.folder.display()))?;
    let guests = Guests::prepare(&settings, &kernel, &agent)?;

    progress.say("starting vmm-service, with its state in ./var/demo");
    let daemon = Daemon::start(settings.clone())?;
    let shown = show(args, &settings, &guests, &interrupt, &progress);
    let shown = shown.map_err(|error| guests.explain(&settings, error));
    if args.keep && shown.is_ok() {
        daemon.leave();
        let socket = settings.socket();
        progress.say("the daemon and the VMs go on; the next demo cleans up");
        println!("    export VMM_SOCKET={}", socket.display());
        println!("    {} watch", settings.programs.vmmctl.display());
        return Ok(());
    }
    let cleaned = end(daemon, &progress);
    shown?;
    cleaned
}

/// One demo at a time: a second one would take the first one's VMs for those
/// of a demo that was killed. Held until the file is closed.
fn lock(tree: &Tree) -> Result<File> {
    let path = tree.root().join(LOCK);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.try_lock().context("another demo runs in this checkout; end it first")?;
    Ok(file)
}

fn build(tree: &Tree, progress: &Progress) -> Result<(HostPrograms, std::path::PathBuf)> {
    let say = |line: &str| progress.say(line);
    let programs = build::host_programs(tree, Profile::Dev, &say)?;
    Ok((programs, build::agent(tree, &say)?))
}

/// Boots the guests and shows them, until Ctrl-C or once.
fn show(
    args: &Args,
    settings: &Settings,
    guests: &Guests,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<()> {
    guests.create_and_start(settings, interrupt, progress)?;
    guests.wait_for_facts(settings, interrupt, progress)?;
    if !args.once && std::io::stdout().is_terminal() && !args.keep {
        progress.say("the live table follows; Ctrl-C ends the demo");
        return watch(settings, interrupt);
    }
    guests.print(settings, interrupt)
}

/// The live table, until Ctrl-C, which the terminal sends to `vmmctl` too.
fn watch(settings: &Settings, interrupt: &Interrupt) -> Result<()> {
    let mut watching = settings.vmmctl().arg("watch").spawn().context("cannot run vmmctl watch")?;
    loop {
        if interrupt.came() {
            let ended = wait::until("vmmctl's end", WATCH_END_LIMIT, || Ok(watching.try_wait()?));
            if ended.is_err() {
                // Only we were asked to end, not the whole terminal.
                watching.kill().context("cannot end vmmctl watch")?;
                watching.wait()?;
            }
            return Ok(());
        }
        if let Some(status) = watching.try_wait()? {
            // `q` or Ctrl-C, seen by vmmctl before we saw it.
            if !status.success() && !interrupt.came() {
                bail!("vmmctl watch failed ({status})");
            }
            return Ok(());
        }
        interrupt.pause();
    }
}

/// Cleans up after a demo that was killed: the VMs outlive their daemon, so a
/// daemon on the same state is started to end them.
fn clear(settings: &Settings, progress: &Progress) -> Result<()> {
    if !settings.folder.exists() {
        return Ok(());
    }
    progress.say("an earlier demo was not ended: cleaning up after it");
    daemon::end_earlier(settings)?;
    let daemon = Daemon::start(settings.clone())?;
    end(daemon, progress)
}

/// Ends all VMs and the daemon, and removes their state.
fn end(daemon: Daemon, progress: &Progress) -> Result<()> {
    progress.say("stopping the VMs and the daemon");
    let ended = guests::end_all(daemon.settings());
    let settings = daemon.stop()?;
    ended?;
    // Some of it may belong to root, where sudo started the daemon.
    program::output(program::privileged("rm", &[]).arg("-rf").arg(&settings.folder))
        .map(drop)
        .context("cannot remove the demo's state")?;
    progress.say("cleaned up");
    Ok(())
}

/// Runs one of our tools to its end with its output on our terminal.
fn run_shown(command: &mut Command) -> Result<()> {
    program::run(command)
}
