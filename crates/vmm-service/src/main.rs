//! `vmm-service`: runs virtual machines on this host and shows what happens
//! inside them. Flags, then configuration, then logging, then the program.

mod api;
mod app;
mod config;
mod door;
mod events;
mod guest;
mod hypervisor;
mod keeper;
mod machines;
mod metrics;
mod rescue;
mod store;
mod sys;
mod vm;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Flags, Log, LogFormat};

/// The exit code for what the user got wrong: EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// The exit code for everything that we, or the host, got wrong.
const EXIT_FAILURE: u8 = 1;

/// Runs virtual machines on this host and shows what happens inside them.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Check the configuration, report every mistake, and leave
    #[arg(long)]
    check_config: bool,
    /// Say what guests run on, kvm or tcg, and in a second line why, and leave
    #[arg(long, conflicts_with = "check_config")]
    check_accel: bool,
    /// Check every row of the state file, say what it holds, and leave; a daemon
    /// may be using it
    #[arg(long, conflicts_with_all = ["check_config", "check_accel"])]
    check_state: bool,
    /// Take the state file as it is for the truth, after you have mended it, and
    /// leave
    #[arg(long, conflicts_with_all = ["check_config", "check_accel", "check_state"])]
    accept_state: bool,
}

fn main() -> ExitCode {
    // Before everything else: a keeper has no runtime and no configuration.
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == keeper::SUBCOMMAND
        && let Some(dir) = rest.last()
    {
        let resume = rest.iter().any(|argument| argument == keeper::RESUME);
        return keeper::run(std::path::Path::new(dir), resume).into();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no mistakes.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nobody reads it when the output is closed.
            let _ = error.print();
            return code.into();
        }
    };
    let variable = |name: &str| std::env::var(name).ok();
    let config = match config::load(&arguments.flags, &variable) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("vmm-service: the configuration has mistakes:\n{mistakes}");
            return EXIT_USAGE.into();
        }
    };
    if arguments.check_config {
        println!("The configuration is right.");
        return ExitCode::SUCCESS;
    }
    start_logging(&config.log);
    match run(&config, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            EXIT_FAILURE.into()
        }
    }
}

fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.check_state {
        return rescue::check(&config.state);
    }
    if arguments.accept_state {
        return rescue::accept(&config.state);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if arguments.check_accel {
            let verdict = machines::accelerator(config).await?;
            println!("{}\n{}", verdict.accel.word(), verdict.why);
            return Ok(());
        }
        app::App::build(config).await?.run().await
    })
}

/// To the standard error, where systemd and containers look for it.
fn start_logging(log: &Log) {
    // It was parsed when the configuration was read.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_default();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
