//! The command line: what can be asked, and the words of `--help`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  vmm-service is not reachable
  4  there is no such VM
  5  vmm-service refused: bad input, a conflict, or no right to it";

/// Runs virtual machines and looks into them, by way of vmm-service.
#[derive(Debug, Parser)]
#[command(name = "vmmctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// How to print: tables for people, or the API's own JSON.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// vmm-service's socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = vmm_api::client::SOCKET_VARIABLE,
        hide_env_values = true,
        default_value = vmm_api::client::DEFAULT_SOCKET,
        value_hint = ValueHint::FilePath
    )]
    pub(crate) socket: PathBuf,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs; commands on several VMs and streams print one JSON object
    /// per line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List VMs.
    #[command(visible_alias = "ls")]
    List(List),
    /// Create a VM from a specification in TOML, and print its id.
    Create(Create),
    /// Start VMs.
    Start(Begin),
    /// Shut VMs down: by their agent, or by the power button.
    Stop(Stop),
    /// Restart VMs in their QEMU process.
    Restart(Restart),
    /// Halt VMs' processors.
    Pause(Begin),
    /// Let paused VMs run on.
    Resume(Begin),
    /// Kill VMs at once, as pulling the plug would.
    Kill(Begin),
    /// Delete VMs that do not run. Their disk images stay.
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Show what the host knows of a VM.
    Info(One),
    /// Show what a VM's guest tells about itself.
    Guest(One),
    /// Watch VMs live. `q` leaves.
    #[command(visible_alias = "top")]
    Watch(Watch),
    /// Print a VM's console log.
    Log(Log),
    /// Print what happens, as it happens.
    Events(Events),
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual, or write its pages into a folder.
    Man {
        /// The folder.
        #[arg(value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only VMs in this state.
    #[arg(long)]
    pub(crate) state: Option<StateWord>,
    /// Only VMs with this label.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Option<(String, String)>,
    /// What to sort by.
    #[arg(long, value_enum, default_value_t = SortBy::Name)]
    pub(crate) sort: SortBy,
    /// Turn the order round.
    #[arg(long)]
    pub(crate) reverse: bool,
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a label is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The states of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateWord {
    Created,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Failed,
    Deleting,
}

/// What a list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// By name.
    Name,
    /// By state, then name.
    State,
    /// The newest first.
    Created,
    /// The largest memory first.
    Memory,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The specification; `-` reads it from standard input.
    #[arg(short, long, value_name = "SPEC", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// The VMs to act upon, and whether to wait.
#[derive(Clone, Debug, Args)]
pub(crate) struct Begin {
    /// Names or ids of VMs.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Return as soon as vmm-service has accepted it.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait no longer than so many seconds. The work goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, conflicts_with = "no_wait")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) begin: Begin,
    /// Kill a VM that is not down after so many seconds; 0 never does. 60
    /// when not given.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) force_after: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) begin: Begin,
    /// Stop and start, with a new QEMU process.
    #[arg(long)]
    pub(crate) cold: bool,
    /// Reset a VM that is not down after so many seconds; 0 never does. 60
    /// when not given.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) force_after: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) begin: Begin,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Name or id of a VM.
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only these VMs; all when none is named.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Print the table anew every so many seconds instead of redrawing it.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) interval: Option<u64>,
    /// Print the table so many times, then leave.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Name or id of a VM.
    pub(crate) name: String,
    /// Only the last so many lines.
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) lines: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only of this VM.
    pub(crate) name: Option<String>,
    /// Begin after this event, as `-o json` names it.
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<vmm_api::event::EventId>,
}
