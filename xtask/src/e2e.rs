//! `cargo xtask e2e`: the whole-system tests, with everything they need installed
//! and built before they start.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use lab::Tree;
use lab::build::{HostPrograms, Profile};

use crate::steps::{Steps, Tally, run_tests};
use crate::workspace;

/// Whole-system tests: the built programs and real virtual machines
#[derive(clap::Args)]
pub struct Args {
    /// Only tests with this in their name
    filter: Option<String>,
    /// Print the names of the tests and run none
    #[arg(long)]
    list: bool,
    /// Run them again and again for so many minutes, with the programs as they
    /// are shipped; end with the first that fails
    #[arg(long, value_name = "MINUTES")]
    repeat_for: Option<u64>,
    /// What the random tests choose by, as an earlier run printed it
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

impl Args {
    /// All tests, each once.
    pub fn all() -> Self {
        Self { filter: None, list: false, repeat_for: None, seed: None }
    }
}

/// Builds, runs, and fails when a test fails.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        return list();
    }
    let mut steps = Steps::new();
    if steps.run("packages", install) {
        run_steps(&mut steps, args);
    }
    steps.finish()
}

/// Builds and plays, for `test` to put its own steps before. Needs what
/// [`install`] brings.
pub fn run_steps(steps: &mut Steps, args: &Args) {
    let mut built = None;
    steps.run("programs", || {
        // What leaks or races shows after an hour, in what people run.
        let profile = if args.repeat_for.is_some() { Profile::Release } else { Profile::Dev };
        built = Some(Built::new(profile)?);
        Ok(Tally::default())
    });
    if let Some(built) = built {
        steps.run("whole-system tests", || play_cases(&built, args));
    }
}

/// Prints the names of all tests.
pub fn list() -> Result<()> {
    let mut command =
        workspace::cargo(&["run", "--quiet", "--package", "e2e", "--", "cases", "--list"]);
    workspace::run(&mut command)
}

/// Installs what a guest needs to boot here, and says what.
pub fn install() -> Result<Tally> {
    lab::packages::ensure(lab::packages::TO_BOOT_GUESTS, &say)?;
    lab::packages::ensure(lab::packages::TO_MAKE_DEBIAN, &say)?;
    lab::packages::ensure(lab::packages::TO_WOUND_THE_HOST, &say)?;
    lab::packages::ensure_guest_target(&Tree::locate()?, &say)?;
    Ok(Tally::default())
}

/// What the tests drive, and the program that drives it.
pub struct Built {
    tree: Tree,
    agent: PathBuf,
    programs: HostPrograms,
}

impl Built {
    /// Builds all of it, and brings the guests' kernel and the Debian image.
    pub fn new(profile: Profile) -> Result<Self> {
        let tree = Tree::locate()?;
        let agent = lab::build::agent(&tree, &say)?;
        let programs = lab::build::host_programs(&tree, profile, &say)?;
        lab::kernel::obtain(&tree, &say)?;
        lab::debian::obtain(&tree, &say)?;
        workspace::run(&mut workspace::cargo(&["build", "--package", "e2e"]))?;
        Ok(Self { tree, agent, programs })
    }

    /// The program of the whole-system tests, to do `what` with what was built.
    pub fn command(&self, what: &str) -> Command {
        // The daemon needs root, and the tests look at its processes. The kernel
        // that we have obtained lies where we look for it, not where root would.
        let cache = (OsString::from("INFINIBAY_LAB_CACHE"), self.tree.cache().into());
        let mut command = lab::program::privileged(self.tree.target().join("debug/e2e"), &[cache]);
        command.current_dir(workspace::root()).arg(what);
        command.arg("--agent").arg(&self.agent);
        command.arg("--programs").args(self.programs.daemon.parent());
        command
    }
}

/// Plays the tests whose names contain the filter. Fails when there is none: a
/// run without a test would look like one without a failure.
fn play_cases(built: &Built, args: &Args) -> Result<Tally> {
    let mut command = built.command("cases");
    command.args(&args.filter);
    for (option, value) in [("--repeat-for", args.repeat_for), ("--seed", args.seed)] {
        if let Some(value) = value {
            command.arg(option).arg(value.to_string());
        }
    }
    let tally = run_tests(&mut command)?;
    if tally == Tally::default() {
        bail!("no test ran");
    }
    Ok(tally)
}

fn say(line: &str) {
    println!("{line}");
}
