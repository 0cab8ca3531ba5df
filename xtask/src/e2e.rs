//! `cargo xtask e2e`: the whole-system tests, with everything they drive built
//! before they start.

use anyhow::{Result, bail};

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
}

/// Builds, runs, and fails when a test fails.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        return workspace::run(&mut workspace::cargo(&[
            "run",
            "--quiet",
            "--package",
            "e2e",
            "--bin",
            "e2e",
            "--",
            "--list",
        ]));
    }
    let mut steps = Steps::new();
    run_steps(&mut steps, args.filter.as_deref());
    steps.finish()
}

/// The steps, for `test` to put others before them.
pub fn run_steps(steps: &mut Steps, filter: Option<&str>) {
    if steps.run("build the programs", build) {
        steps.run("whole-system tests", || {
            let mut command =
                workspace::cargo(&["run", "--quiet", "--package", "e2e", "--bin", "e2e", "--"]);
            let tally = run_tests(command.args(filter))?;
            if tally == Tally::default() {
                bail!("no test ran");
            }
            Ok(tally)
        });
    }
}

/// Builds what the tests drive: the agent as guests get it, and the programs of
/// the host.
fn build() -> Result<Tally> {
    workspace::run(&mut workspace::cargo(&[
        "build",
        "--package",
        "infiniservice",
        "--profile",
        "agent",
        "--target",
        AGENT_TARGET,
    ]))?;
    workspace::run(&mut workspace::cargo(&[
        "build",
        "--package",
        "vmm-service",
        "--package",
        "vmmctl",
    ]))?;
    Ok(Tally::default())
}

/// One static file that runs in any Linux guest.
const AGENT_TARGET: &str = "x86_64-unknown-linux-musl";
