//! `vmmctl`: the operator's tool. Reads the command line, runs one command,
//! turns what went wrong into two lines and an exit code.

mod cli;
mod commands;
mod failure;
mod fleet;
mod output;
mod render;
mod sys;

use std::process::ExitCode;

use failure::{Exit, Failure};
use output::Output;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    let output = Output::new(cli.global.output);
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            let what = format!("the system refused what every program needs: {error}");
            Failure::new(Exit::Failed, what, "are there too many open files?")
        })
        .and_then(|runtime| runtime.block_on(commands::run(cli, output)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}
