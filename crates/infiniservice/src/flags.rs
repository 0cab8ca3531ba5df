//! The command line. Only its form is judged here; what the values mean is
//! config.rs's to say, because the file may give the same ones.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::mistake::Mistake;

/// What `--help` prints.
pub const HELP: &str = "\
infiniservice: tells the host of this virtual machine what happens inside it.

Usage: infiniservice [FLAGS]

Without flags it finds the virtio-serial port org.infinibay.agent, waits for
its host, and reports until it is ended.

  --print              Collect once, print the facts as JSON, and exit.
  --config PATH        The configuration [/etc/infiniservice/config.toml, if it
                       is there]. Flags win over it.
  --channel NAME       The virtio-serial port's name [org.infinibay.agent].
  --device PATH        The port itself, where it cannot be found by name.
  --listen PATH        Listen on a unix socket instead (root and own user only).
  --interval SECONDS   How often to report [30].
  --profile NAME       What the host may ask: baseline-1 (facts only) or managed
                       (and shutdown) [baseline-1].
  --boot-complete-file PATH
                       The boot is over when this file exists. Without it
                       systemd is asked; without systemd, when the agent starts.
  --debug              Log everything. Otherwise RUST_LOG (error, warn, info,
                       debug or trace) says how much.
  --help, --version    Print this, or the version.

Exit codes: 0 ended as asked, 64 wrong flags or configuration, 1 failed.
";

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Be the agent.
    #[default]
    Serve,
    /// Print the facts.
    Print,
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// The command line, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub task: Task,
    pub config: Option<PathBuf>,
    pub channel: Option<String>,
    pub device: Option<PathBuf>,
    pub listen: Option<PathBuf>,
    pub interval: Option<String>,
    pub profile: Option<String>,
    pub boot_complete_file: Option<PathBuf>,
    pub debug: bool,
}

impl Flags {
    /// Takes the arguments apart, the program's name first.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Vec<Mistake>> {
        Self::try_parse(arguments).map_err(|error| {
            vec![Mistake {
                what: error.to_string(),
                help: "`infiniservice --help` lists the flags".into(),
            }]
        })
    }

    fn try_parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        let mut parser = lexopt::Parser::from_iter(arguments);
        let mut flags = Self::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Short('h') | Long("help") => flags.task = Task::Help,
                Short('V') | Long("version") => flags.task = Task::Version,
                // What explains the program wins over what it would do.
                Long("print") if flags.task == Task::Serve => flags.task = Task::Print,
                Long("print") => {}
                Long("debug") => flags.debug = true,
                Long("config") => flags.config = Some(parser.value()?.into()),
                Long("channel") => flags.channel = Some(parser.value()?.string()?),
                Long("device") => flags.device = Some(parser.value()?.into()),
                Long("listen") => flags.listen = Some(parser.value()?.into()),
                Long("interval") => flags.interval = Some(parser.value()?.string()?),
                Long("profile") => flags.profile = Some(parser.value()?.string()?),
                Long("boot-complete-file") => {
                    flags.boot_complete_file = Some(parser.value()?.into());
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, Vec<Mistake>> {
        Flags::parse(std::iter::once("infiniservice").chain(line.split(' ')).map(Into::into))
    }

    #[test]
    fn flags_are_taken_in_any_form() {
        let flags = parse("--print --interval=2 --channel org.x --debug").unwrap();
        assert_eq!(flags.task, Task::Print);
        assert_eq!(flags.interval.as_deref(), Some("2"));
        assert_eq!(flags.channel.as_deref(), Some("org.x"));
        assert!(flags.debug);
    }

    #[test]
    fn a_wrong_flag_is_named_with_what_to_do() {
        let mistakes = parse("--divice /dev/x").unwrap_err();
        assert!(mistakes[0].what.contains("--divice"));
        assert!(mistakes[0].help.contains("--help"));
        assert!(parse("--listen").is_err());
    }

    #[test]
    fn every_flag_is_in_the_help() {
        for flag in
            ["print", "config", "channel", "device", "listen", "interval", "profile", "debug"]
        {
            assert!(HELP.contains(&format!("--{flag} ")), "{flag}");
        }
    }
}
