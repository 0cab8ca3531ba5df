//! The only build scripting: every command that a developer, CI or a first
//! visitor runs is a file of this crate, so that all three run the same thing.

mod bare;
mod bench;
mod check;
mod demo;
mod deny;
mod e2e;
mod promtool;
mod soak;
mod steps;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Everything that is built, checked, shown or measured starts here.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// One variant for each file that is a command.
#[derive(Subcommand)]
enum Command {
    Check(check::Args),
    Tidy(tidy::Args),
    Test(test::Args),
    E2e(e2e::Args),
    Demo(demo::Args),
    Bare(bare::Args),
    Bench(bench::Args),
    Soak(soak::Args),
}

fn main() -> ExitCode {
    let Some(command) = Cli::parse().command else {
        // Nobody who types only `cargo run` or `cargo xtask` made a mistake.
        print!("{}", Cli::command().render_help());
        return ExitCode::SUCCESS;
    };
    let outcome = match command {
        Command::Check(args) => check::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Test(args) => return test::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bare(args) => bare::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Soak(args) => soak::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
