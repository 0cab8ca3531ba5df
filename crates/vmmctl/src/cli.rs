//! The command line: what can be asked, and the words of `--help`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use vmm_api::event::EventKind;
use vmm_api::guest::AgentState;
use vmm_api::list::{Filter, Sort, SortKey};
use vmm_api::vm::State;

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
    /// How to print.
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
    /// Tables that fit the terminal.
    Table,
    /// Tables with everything in them, however wide.
    Wide,
    /// The API's own JSON; commands on several VMs and streams print one object
    /// per line.
    Json,
    /// The names of the VMs alone, one per line.
    Name,
}

impl Cli {
    /// The command line; the program ends here when it is wrong.
    pub(crate) fn read() -> Self {
        let cli = Self::parse();
        if cli.global.output == Format::Name && !cli.command.is_about_names() {
            let what = "`-o name` is for commands that list or change VMs";
            Self::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
        cli
    }
}

impl Command {
    fn is_about_names(&self) -> bool {
        !matches!(
            self,
            Self::Guest(_)
                | Self::Watch(_)
                | Self::Log(_)
                | Self::Events(_)
                | Self::Completions { .. }
                | Self::Man { .. }
        )
    }
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
    /// Change VMs' specifications.
    Set(Set),
    /// Show what the host knows of a VM.
    Info(One),
    /// Show what a VM's guest tells about itself.
    Guest(Guest),
    /// Watch VMs live, those with problems first. `q` leaves, arrows scroll.
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
    #[command(flatten)]
    pub(crate) select: Select,
    /// No more than so many VMs.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// Which VMs, and in which order.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Select {
    /// Only VMs in one of these states.
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    pub(crate) state: Vec<State>,
    /// Only VMs whose agent is in one of these states.
    #[arg(long, value_name = "AGENT", value_delimiter = ',', value_parser = agents())]
    pub(crate) agent: Vec<AgentState>,
    /// Only VMs with this label; given several times: with all of them.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// Only VMs whose name fits: `*` stands for any characters, `?` for one.
    #[arg(long = "name", value_name = "PATTERN")]
    pub(crate) pattern: Option<String>,
    /// What to sort by.
    #[arg(long, value_name = "KEY", value_parser = sort_keys())]
    pub(crate) sort: Option<SortKey>,
    /// Turn the order round.
    #[arg(long)]
    pub(crate) reverse: bool,
}

impl Select {
    /// Which VMs.
    pub(crate) fn filter(&self) -> Filter {
        Filter {
            states: self.state.clone(),
            agents: self.agent.clone(),
            name: self.pattern.clone(),
            labels: self.label.clone(),
        }
    }

    /// In which order; by `key` when nothing else was asked for.
    pub(crate) fn sort(&self, key: SortKey) -> Sort {
        Sort { key: self.sort.unwrap_or(key), descending: self.reverse }
    }
}

fn states() -> impl TypedValueParser<Value = State> {
    words(State::ALL.map(|state| (state.as_str(), state)))
}

fn agents() -> impl TypedValueParser<Value = AgentState> {
    words(AgentState::ALL.map(|agent| (agent.as_str(), agent)))
}

fn sort_keys() -> impl TypedValueParser<Value = SortKey> {
    words(SortKey::ALL.map(|key| (key.as_str(), key)))
}

/// Takes one of these words, and none else.
fn words<T, const COUNT: usize>(
    words: [(&'static str, T); COUNT],
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(words.map(|(word, _)| word)).try_map(move |word| {
        words.iter().find(|(known, _)| *known == word).map(|(_, is)| *is).ok_or("no such word")
    })
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a label is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
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
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// Whether to wait.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Return as soon as vmm-service has accepted it.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait no longer than so many seconds. The work goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, conflicts_with = "no_wait")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Names or ids of VMs.
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// All VMs that run, at once.
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
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
pub(crate) struct Set {
    /// Names or ids of VMs.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Whether they are started when the host has booted.
    #[arg(long, value_enum, required = true)]
    pub(crate) autostart: Option<Switch>,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Name or id of a VM.
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Guest {
    #[command(flatten)]
    pub(crate) one: One,
    /// Show what came through the guest's channel instead, and what was thrown
    /// away or held back of it.
    #[arg(long)]
    pub(crate) channel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only these VMs; all when none is named.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) select: Select,
    /// No more than so many VMs.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
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
    /// Only events of these kinds.
    #[arg(long, value_name = "KIND", value_delimiter = ',',
          value_parser = PossibleValuesParser::new(EventKind::WORDS))]
    pub(crate) kind: Vec<String>,
    /// Begin after this event, as `-o json` names it.
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<vmm_api::event::EventId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(arguments: &[&str]) -> Result<List, clap::Error> {
        let all = ["vmmctl", "list"].iter().chain(arguments);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::List(list) => list,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn filters_take_the_words_of_the_api() {
        for state in State::ALL {
            let list = listed(&["--state", state.as_str()]).unwrap();
            assert_eq!(list.select.filter().states, [state]);
        }
        let list = listed(&[
            "--state",
            "failed,stopped",
            "--agent",
            "silent",
            "-l",
            "a=b",
            "--label",
            "c=d=e",
            "--name",
            "web-*",
            "--sort",
            "agent_age",
            "--reverse",
            "--limit",
            "9",
        ])
        .unwrap();
        let filter = list.select.filter();
        assert_eq!(filter.states, [State::Failed, State::Stopped]);
        assert_eq!(filter.agents, [AgentState::Silent]);
        assert_eq!(filter.name.as_deref(), Some("web-*"));
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(filter.labels, [label("a", "b"), label("c", "d=e")]);
        assert_eq!(list.select.sort(SortKey::Name).to_string(), "-agent_age");
        assert_eq!(list.limit, Some(9));
    }

    #[test]
    fn wrong_words_are_told_with_the_right_ones() {
        for (flag, word, right) in [
            ("--state", "asleep", "running"),
            ("--agent", "gone", "connected"),
            ("--sort", "size", "memory_mib"),
            ("--label", "tier", "KEY=VALUE"),
            ("--limit", "0", "1.."),
        ] {
            let error = listed(&[flag, word]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(right), "{error}");
        }
    }

    #[test]
    fn the_unit_of_the_host_s_shutdown_is_understood() {
        let unit = include_str!("../../../config/systemd/infinibay-guests.service");
        let stop = unit.lines().find_map(|line| line.strip_prefix("ExecStop=/usr/bin/")).unwrap();
        let words = stop.replace("${FORCE_AFTER}", "60");
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Stop(stop) = cli.command else { panic!("{words}") };
        assert!(stop.all && stop.force_after == Some(60));
    }
}
