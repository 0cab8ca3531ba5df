//! `cargo xtask test`: all that CI checks, on a machine that has no more than
//! rustup, a C compiler and git. `.ci/run` calls nothing else.

use anyhow::{Result, anyhow};

use crate::steps::Steps;
use crate::{check, e2e};

/// Everything that CI checks; installs what it lacks and says what
#[derive(clap::Args)]
pub struct Args {}

/// Does all steps, prints their seconds, and ends with the plain count.
pub fn run(_args: &Args) -> Result<()> {
    let mut steps = Steps::new();
    check::run_steps(&mut steps);
    e2e::run_steps(&mut steps, None);
    let tally = steps.tally();
    let outcome = steps.finish();
    // The last line, alone and plain: people and programs look for it.
    println!("{tally}");
    outcome.map_err(|error| anyhow!("{error}; the output above says why"))
}
