//! What went wrong, in the two lines that an operator reads and the exit code
//! that a program reads.

use std::io;
use std::process::ExitCode;

use vmm_api::client::Error;
use vmm_api::problem::Problem;

use crate::render::text::{Style, Text};

/// How the program ends. The numbers are in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    NotReachable = 3,
    NoSuchVm = 4,
    Refused = 5,
}

/// Why a command was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to say about it.
    Told(Told),
    /// It was said already, per VM.
    Shown(Exit),
    /// Whoever read the output has gone, which is his right.
    BrokenPipe,
}

/// What happened and what to do.
#[derive(Debug)]
pub(crate) struct Told {
    what: String,
    details: Vec<String>,
    advice: Option<String>,
    exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self::Told(Told { what: what.into(), details: Vec::new(), advice, exit })
    }

    /// An error of a request about one VM.
    pub(crate) fn about(vm: &str, error: Error) -> Self {
        match error.status() {
            Some(404) => Self::new(
                Exit::NoSuchVm,
                format!("there is no VM {vm:?}"),
                "`vmmctl list` shows those that there are",
            ),
            Some(409) => {
                let advice = format!("`vmmctl info {vm}` shows the state it is in");
                Self::new(Exit::Refused, format!("{vm}: {error}"), advice)
            }
            _ => Self::from(error),
        }
    }

    /// Lines between what happened and what to do.
    pub(crate) fn with_details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.details.extend(lines);
        }
        self
    }

    /// The exit code, where it is a failure at all.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self {
            Self::Told(told) => Some(told.exit),
            Self::Shown(exit) => Some(*exit),
            Self::BrokenPipe => None,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.exit().map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit as u8))
    }

    /// The lines for standard error.
    pub(crate) fn lines(&self) -> Vec<Text> {
        let Self::Told(told) = self else { return Vec::new() };
        let mut lines = vec![Text::styled(Style::Bad, "vmmctl: ").and(Style::Plain, &told.what)];
        lines.extend(told.details.iter().map(|line| Text::new("  ").and(Style::Plain, line)));
        if let Some(advice) = &told.advice {
            lines.push(Text::styled(Style::Faint, "  → ").and(Style::Plain, advice));
        }
        lines
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::new(
            Exit::Failed,
            format!("the output cannot be written: {error}"),
            "is the disk full, or the terminal gone?",
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let Error::Problem(problem) = &error {
            return refused(problem);
        }
        let exit = match error {
            Error::NotReachable { .. } => Exit::NotReachable,
            _ => Exit::Failed,
        };
        let advice = error.advice();
        Self::Told(Told { what: chain(&error), details: Vec::new(), advice, exit })
    }
}

/// An error with its causes, which its own text leaves out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn refused(problem: &Problem) -> Failure {
    let (exit, advice) = match problem.status {
        401 | 403 => (Exit::Refused, "run as root, or ask an administrator".to_owned()),
        404 => (Exit::Failed, "is vmm-service older than vmmctl?".to_owned()),
        409 => (Exit::Refused, "`vmmctl list` shows what there is".to_owned()),
        429 | 503 => (Exit::Refused, "wait a moment and try again".to_owned()),
        400..500 if problem.errors.is_empty() => {
            (Exit::Refused, format!("problem {}, request {}", problem.kind, problem.request_id))
        }
        400..500 => (Exit::Refused, "correct these and try again; nothing was changed".to_owned()),
        _ => (
            Exit::Failed,
            format!("the daemon's log has more under request {}", problem.request_id),
        ),
    };
    let details = problem.errors.iter().map(|error| format!("{}: {}", error.field, error.detail));
    Failure::new(exit, problem.detail.clone(), advice).with_details(details)
}
