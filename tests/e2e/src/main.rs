//! The whole-system tests: the built programs and real virtual machines, driven
//! through the user's doors. A program and not a `#[test]`, because whoever runs
//! it wants a guest's seconds, a filter, and the same test again for an hour.
//! `cargo xtask e2e` builds what it needs and runs it.

mod cases;
mod runner;
mod scene;
mod small_file_system;
mod stage;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use runner::Plan;
use stage::Stage;

/// Runs whole-system tests.
#[derive(Parser)]
struct Args {
    /// Only tests with this in their name.
    filter: Option<String>,
    /// Print the names of the tests and run none.
    #[arg(long)]
    list: bool,
    /// Run the tests again and again for so many minutes; end with the first
    /// that fails.
    #[arg(long, value_name = "MINUTES")]
    repeat_for: Option<u64>,
    /// The folder of the built vmm-service and vmmctl.
    #[arg(long, value_name = "FOLDER", default_value = "target/debug")]
    programs: PathBuf,
    /// The static agent, as guests get it.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/x86_64-unknown-linux-musl/agent/infiniservice"
    )]
    agent: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut cases = cases::all();
    let known = cases.len();
    if let Some(filter) = &args.filter {
        cases.retain(|case| case.name.contains(filter.as_str()));
    }
    if args.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let stage = Stage::set(&args.programs, &args.agent).context("nothing was tested")?;
    let repeat_for = args.repeat_for.map(|minutes| Duration::from_secs(60 * minutes));
    let plan = Plan { left_out: known - cases.len(), cases, repeat_for };
    runner::run(&plan, &stage)
}
