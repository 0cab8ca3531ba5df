//! `cargo xtask test`: all that CI checks, on a machine that has no more than
//! rustup, a C compiler and git. `.ci/run` calls nothing else.

use std::process::ExitCode;

use crate::steps::Steps;
use crate::{check, e2e};

/// Everything that CI checks; installs what it lacks and says what
#[derive(clap::Args)]
pub struct Args {}

/// Does all steps and prints their seconds. The last line is the plain count, for
/// people and programs alike: failures are told before it.
pub fn run(_args: &Args) -> ExitCode {
    let mut steps = Steps::new();
    // Unit tests run QEMU as well.
    let ready = steps.run("packages", e2e::install);
    check::run_steps(&mut steps);
    if ready {
        e2e::run_steps(&mut steps, &e2e::Args::all());
    }
    let tally = steps.tally();
    let outcome = steps.finish();
    if let Err(error) = &outcome {
        println!("{error}; the output above says why");
    }
    println!("{tally}");
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
