//! The agent in every guest: flags, configuration, logging, and then one loop.

mod agent;
mod collect;
mod command;
mod config;
mod flags;
mod identity;
mod lifecycle;
mod log;
mod mistake;
mod publish;
mod sys;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use agent::Agent;
use collect::Collectors;
use command::Commands;
use config::Config;
use flags::{Flags, Task};
use identity::Identity;
use mistake::Mistake;
use publish::Publisher;
use publish::stdout::JsonWriter;
use sys::signal::Termination;

/// The user's input was wrong, as sysexits(3) numbers it.
const EXIT_USAGE: u8 = 64;

/// How many events of the system are taken at once: there are a port, a socket
/// and a signal pipe. The runtime's default is room for a thousand connections.
const EVENTS_AT_ONCE: usize = 16;

/// How long the rates of `--print` are measured.
const PRINT_INTERVAL: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let config = match Flags::parse(std::env::args_os()).and_then(Config::load) {
        Ok(config) => config,
        Err(mistakes) => return refuse(&mistakes),
    };
    match config.task {
        Task::Help => print(flags::HELP),
        Task::Version => print(concat!("infiniservice ", env!("CARGO_PKG_VERSION"), "\n")),
        Task::Print | Task::Serve => conclude(run(config)),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    log::install(config.log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS_AT_ONCE)
        .build()
        .context("the event loop could not be made")?;
    match config.task {
        Task::Print => runtime.block_on(print_facts()),
        _ => runtime.block_on(serve(config)),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    for name in config.policy.denied_but_unknown() {
        tracing::warn!(name, "The policy denies a command that this agent does not have.");
    }
    let termination = Termination::listen().context("signals cannot be listened to")?;
    let identity = Identity::load(&sys::state::folder());
    let agent = Agent::start(config.settings, identity, Commands::new(config.policy))
        .context("the socket cannot be listened on")?;
    match sys::pages::give_back() {
        Ok(bytes) => tracing::debug!(bytes, "The pages that the start needed were given back."),
        Err(error) => tracing::debug!(%error, "The pages that the start needed are kept."),
    }
    agent.run(termination).await.context("the system's timer failed")
}

/// Collects twice, because rates need an interval.
async fn print_facts() -> anyhow::Result<()> {
    let mut collectors = Collectors::default();
    collectors.collect();
    tokio::time::sleep(PRINT_INTERVAL).await;
    let facts = collectors.collect();
    JsonWriter::new(std::io::stdout().lock()).publish(&facts).context("writing the facts")
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    conclude(std::io::stdout().write_all(text.as_bytes()).context("writing to standard output"))
}

fn refuse(mistakes: &[Mistake]) -> ExitCode {
    for mistake in mistakes {
        eprintln!("error: {}\n  help: {}", mistake.what, mistake.help);
    }
    ExitCode::from(EXIT_USAGE)
}

fn conclude(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
