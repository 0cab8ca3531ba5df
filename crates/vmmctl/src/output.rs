//! Where output goes and what it may use there.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::cli::Format;
use crate::failure::Failure;
use crate::render::sanitize::visible_json;
use crate::render::text::Text;
use crate::sys;

/// Standard output and error as they are found at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
    /// Whether standard error is a terminal, which may show progress.
    pub(crate) error_terminal: bool,
    colour: bool,
    error_colour: bool,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let error_terminal = io::stderr().is_terminal();
        let colours = colours_wanted();
        Self {
            format,
            terminal,
            error_terminal,
            colour: terminal && colours,
            error_colour: error_terminal && colours,
        }
    }

    /// How wide tables may be: as the terminal now is, or as `COLUMNS` says;
    /// a pipe takes all, and so does whoever asked for wide ones.
    pub(crate) fn width(self) -> Option<usize> {
        if self.format == Format::Wide {
            return None;
        }
        if self.terminal
            && let Some(size) = sys::terminal::size()
        {
            return Some(size.columns);
        }
        std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0)
    }

    pub(crate) fn colour(self) -> bool {
        self.colour
    }

    /// Prints lines for people.
    pub(crate) fn lines(self, lines: &[Text]) -> Result<(), Failure> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&line.to_line(self.colour));
            text.push('\n');
        }
        self.raw(text.as_bytes())
    }

    /// Prints one document, indented.
    pub(crate) fn document(self, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.raw(format!("{}\n", visible_json(&json)).as_bytes())
    }

    /// Prints one object of several, on a line of its own.
    pub(crate) fn json_line(self, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(value).map_err(io::Error::from)?;
        self.raw(format!("{}\n", visible_json(&json)).as_bytes())
    }

    /// Prints bytes as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Tells a failure on standard error. When even that is gone there is
    /// nobody left to tell.
    pub(crate) fn failure(self, failure: &Failure) {
        self.note(&failure.lines());
    }

    /// Prints lines beside the output, on standard error.
    pub(crate) fn note(self, lines: &[Text]) {
        let text: String =
            lines.iter().map(|line| line.to_line(self.error_colour) + "\n").collect();
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Replaces the progress line on a terminal; an empty one clears it.
    pub(crate) fn progress(self, line: &Text) {
        if !self.error_terminal {
            return;
        }
        let width = sys::terminal::size().map_or(usize::MAX, |size| size.columns);
        let line = line.clone().cut(width.saturating_sub(1)).to_line(self.error_colour);
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }
}

/// `NO_COLOR` (when not empty) and terminals that cannot.
fn colours_wanted() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    !unwanted && !dumb
}
