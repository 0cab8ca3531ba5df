//! `cargo xtask soak`: the long tests, with the programs as they are shipped.
//! `tests/e2e/src/soak/` has them.

use anyhow::Result;
use lab::build::Profile;

use crate::e2e::{self, Built};
use crate::workspace;

/// A long test of random faults, written to bench/RESULTS.md; without a name, list them
#[derive(clap::Args)]
pub struct Args {
    /// Which one
    name: Option<String>,
    /// How many rounds, instead of a full run
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// What to choose by, as an earlier run printed it; random without
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// The first round
    #[arg(long, value_name = "ROUND")]
    from: Option<u64>,
}

/// Builds and plays one, and fails when it does.
pub fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        return workspace::run(&mut workspace::cargo(&[
            "run",
            "--quiet",
            "--package",
            "e2e",
            "--",
            "soak",
        ]));
    };
    e2e::install()?;
    let mut command = Built::new(Profile::Release)?.command("soak");
    command.arg(name);
    for (option, value) in [("--rounds", args.rounds), ("--seed", args.seed), ("--from", args.from)]
    {
        if let Some(value) = value {
            command.arg(option).arg(value.to_string());
        }
    }
    workspace::run(&mut command)
}
