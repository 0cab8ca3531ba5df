//! The whole-system tests: the built programs and real virtual machines, driven
//! through the user's doors. A program and not a `#[test]`, because whoever runs
//! it wants a guest's seconds, a filter, and the same test again for an hour.
//! `cargo xtask e2e` builds what it needs and runs it.

mod cases;
mod runner;
mod scene;
mod small_file_system;
mod soak;
mod stage;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use runner::Plan;
use stage::Stage;

/// Runs whole-system tests.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// The folder of the built vmm-service and vmmctl.
    #[arg(long, global = true, value_name = "FOLDER", default_value = "target/debug")]
    programs: PathBuf,
    /// The static agent, as guests get it.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "target/x86_64-unknown-linux-musl/agent/infiniservice"
    )]
    agent: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// The cases, each once.
    Cases(Cases),
    /// One long test.
    Soak(soak::Args),
    /// What runs within the host whose power is cut.
    #[command(hide = true)]
    Relay {
        /// The port to the test.
        port: PathBuf,
    },
}

#[derive(clap::Args)]
struct Cases {
    /// Only tests with this in their name.
    filter: Option<String>,
    /// Print the names of the tests and run none.
    #[arg(long)]
    list: bool,
    /// Run the tests again and again for so many minutes; end with the first
    /// that fails.
    #[arg(long, value_name = "MINUTES")]
    repeat_for: Option<u64>,
    /// What the random tests choose by, as an earlier run printed it.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let set = |seed| Stage::set(&args.programs, &args.agent, seed).context("nothing was tested");
    match &args.command {
        Command::Cases(cases) => play_cases(cases, set),
        Command::Soak(chosen) => match soak::chosen(chosen)? {
            Some(soak) => soak::run(&soak, chosen, &set(chosen.seed)?),
            None => Ok(ExitCode::SUCCESS),
        },
        Command::Relay { port } => soak::power_cuts::relay::run(port).map(|()| ExitCode::SUCCESS),
    }
}

fn play_cases(
    args: &Cases,
    set: impl FnOnce(Option<u64>) -> anyhow::Result<Arc<Stage>>,
) -> anyhow::Result<ExitCode> {
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
    let stage = set(args.seed)?;
    let repeat_for = args.repeat_for.map(|minutes| Duration::from_secs(60 * minutes));
    let plan = Plan { left_out: known - cases.len(), cases, repeat_for };
    runner::run(&plan, &stage)
}
