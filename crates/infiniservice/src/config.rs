//! The configuration: file and flags joined, every mistake in them told at
//! once. A flag wins over the file, the file over the default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_protocol::limits::CHANNEL_NAME;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use crate::agent::Settings;
use crate::command::policy::{Policy, Profile};
use crate::flags::{Flags, Task};
use crate::log;
use crate::mistake::Mistake;
use crate::publish::channel::Transport;
use crate::sys::state::DEFAULT_CONFIG;

/// How often is reported unless the owner says otherwise: often enough for a
/// table that people look at, rarely enough to cost nothing.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);

/// The intervals that make sense, in seconds.
const INTERVAL_S: std::ops::RangeInclusive<u64> = 1..=86_400;

/// The longest name of a virtio-serial port, in bytes.
const MAX_CHANNEL_BYTES: usize = 64;

const LEVELS: &str = "use error, warn, info, debug or trace";

/// The largest file that is taken for a configuration, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Everything that the agent is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What to do.
    pub task: Task,
    /// How much to log.
    pub log: LevelFilter,
    /// What the host may ask.
    pub policy: Policy,
    /// How to run.
    pub settings: Settings,
}

/// The file's shape. Numbers and names are judged later, all together.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    agent: AgentSection,
    policy: PolicySection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AgentSection {
    channel: Option<String>,
    device: Option<PathBuf>,
    listen: Option<PathBuf>,
    interval_s: Option<i64>,
    boot_complete_file: Option<PathBuf>,
    log: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicySection {
    profile: Option<String>,
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Config {
    /// Reads the file that the flags name, or the usual one if it is there, and
    /// joins it with the flags.
    pub fn load(flags: Flags) -> Result<Self, Vec<Mistake>> {
        let explains = matches!(flags.task, Task::Help | Task::Version);
        let file = match &flags.config {
            _ if explains => File::default(),
            Some(path) => read(path).map_err(|it| vec![it])?,
            None if Path::new(DEFAULT_CONFIG).exists() => {
                read(Path::new(DEFAULT_CONFIG)).map_err(|it| vec![it])?
            }
            None => File::default(),
        };
        Self::join(flags, file, std::env::var("RUST_LOG").ok().as_deref())
    }

    fn join(flags: Flags, file: File, rust_log: Option<&str>) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Mistakes::default();
        let config = Self {
            task: flags.task,
            log: mistakes.log(flags.debug, rust_log, file.agent.log.as_deref()),
            policy: mistakes.policy(
                flags.profile.or(file.policy.profile).as_deref(),
                file.policy.allow,
                file.policy.deny,
            ),
            settings: Settings {
                interval: mistakes.interval(flags.interval.as_deref(), file.agent.interval_s),
                boot_complete_file: flags.boot_complete_file.or(file.agent.boot_complete_file),
                transport: mistakes.transport(
                    [flags.listen, flags.device],
                    flags.channel,
                    [file.agent.listen, file.agent.device],
                    file.agent.channel,
                ),
            },
        };
        if mistakes.0.is_empty() { Ok(config) } else { Err(mistakes.0) }
    }
}

fn read(path: &Path) -> Result<File, Mistake> {
    let shown = path.display();
    let refused = |error: &dyn std::fmt::Display| Mistake {
        what: format!("{shown} could not be read: {error}"),
        help: "make it readable, or name another file with --config".into(),
    };
    let size = std::fs::metadata(path).map_err(|error| refused(&error))?.len();
    if size > MAX_FILE_BYTES {
        return Err(refused(&format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
    toml::from_str(&text).map_err(|error| Mistake {
        what: format!("{shown}: {}", error.to_string().trim_end()),
        help: "docs/agent.md lists what the file may say".into(),
    })
}

/// Collects what is wrong; each judgement gives the default in its place.
#[derive(Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.0.push(Mistake { what: what.into(), help: help.into() });
    }

    fn log(&mut self, debug: bool, rust_log: Option<&str>, file: Option<&str>) -> LevelFilter {
        if debug {
            return LevelFilter::DEBUG;
        }
        let (origin, level) = match (rust_log.filter(|it| !it.is_empty()), file) {
            (Some(given), _) => (format!("RUST_LOG is {given:?}"), log::parse_directives(given)),
            (None, Some(given)) => (format!("[agent] log is {given:?}"), given.parse().ok()),
            (None, None) => return LevelFilter::INFO,
        };
        level.unwrap_or_else(|| {
            self.add(format!("{origin}, which is no level"), LEVELS);
            LevelFilter::INFO
        })
    }

    fn policy(&mut self, profile: Option<&str>, allow: Vec<String>, deny: Vec<String>) -> Policy {
        let names: Vec<_> = Profile::NAMES.iter().map(|(name, _)| *name).collect();
        let profile = match profile.map(|name| (name, Profile::named(name))) {
            None => Profile::default(),
            Some((_, Some(profile))) => profile,
            Some((name, None)) => {
                let help = format!("choose one of {}", names.join(", "));
                self.add(format!("there is no policy profile {name:?}"), help);
                Profile::default()
            }
        };
        Policy::new(profile, allow, deny).unwrap_or_else(|mistakes| {
            for mistake in mistakes {
                self.add(mistake, "correct the name under [policy]");
            }
            Policy::default()
        })
    }

    fn interval(&mut self, flag: Option<&str>, file: Option<i64>) -> Duration {
        let (origin, given) = match (flag, file) {
            (Some(text), _) => (format!("--interval {text}"), text.parse().ok()),
            (None, Some(seconds)) => (format!("interval_s = {seconds}"), seconds.try_into().ok()),
            (None, None) => return DEFAULT_INTERVAL,
        };
        match given.filter(|seconds| INTERVAL_S.contains(seconds)) {
            Some(seconds) => Duration::from_secs(seconds),
            None => {
                let (least, most) = (INTERVAL_S.start(), INTERVAL_S.end());
                self.add(
                    format!("{origin} is no interval"),
                    format!("give whole seconds from {least} to {most}"),
                );
                DEFAULT_INTERVAL
            }
        }
    }

    fn transport(
        &mut self,
        flag_paths: [Option<PathBuf>; 2],
        flag_channel: Option<String>,
        file_paths: [Option<PathBuf>; 2],
        file_channel: Option<String>,
    ) -> Transport {
        let by_flags = flag_channel.is_some() || flag_paths.iter().any(Option::is_some);
        let (origin, [listen, device], channel) = match by_flags {
            true => ("--listen, --device and --channel", flag_paths, flag_channel),
            false => ("listen, device and channel", file_paths, file_channel),
        };
        match (listen, device, channel) {
            (None, None, None) => Transport::VirtioSerial(CHANNEL_NAME.into()),
            (None, None, Some(name)) => self.channel(name),
            (None, Some(path), None) => Transport::Device(path),
            (Some(path), None, None) => Transport::Listen(path),
            _ => {
                self.add(
                    format!("{origin} exclude each other, and more than one is given"),
                    "give the one that the host uses",
                );
                Transport::VirtioSerial(CHANNEL_NAME.into())
            }
        }
    }

    /// The name becomes part of a path.
    fn channel(&mut self, name: String) -> Transport {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=MAX_CHANNEL_BYTES).contains(&name.len())
            && name.bytes().all(is_plain)
            && name.bytes().any(|byte| byte != b'.');
        if !fits {
            self.add(
                format!("the channel {name:?} is no name of a port"),
                format!(
                    "use up to {MAX_CHANNEL_BYTES} letters, digits, dots, hyphens, underscores"
                ),
            );
        }
        Transport::VirtioSerial(name)
    }
}

#[cfg(test)]
mod tests;
