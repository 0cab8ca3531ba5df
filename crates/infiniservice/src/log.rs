//! The log, a line for each event on standard error. Apart from the usual
//! crate for it because a quarter of this agent's memory would be that crate's
//! tables for spans, which the agent does not use.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::sys::time;

/// Reads what `RUST_LOG` may say: a level, or `target=level` of which only this
/// program's counts, separated by commas. `None` when it says something else.
pub fn parse_directives(text: &str) -> Option<LevelFilter> {
    let mut level = LevelFilter::ERROR;
    for directive in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        match directive.split_once('=') {
            None => level = directive.parse().ok()?,
            Some((target, given)) => {
                let given = given.parse().ok()?;
                if target == env!("CARGO_PKG_NAME") {
                    return Some(given);
                }
            }
        }
    }
    Some(level)
}

/// Begins to log what is at least as important as `level`.
pub fn install(level: LevelFilter) {
    // Fails only when a log was installed before, and main installs one.
    let _ = tracing::subscriber::set_global_default(Lines { level });
}

struct Lines {
    level: LevelFilter,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::begin(event.metadata());
        event.record(&mut line);
        // There is nobody to tell that the log cannot be written.
        let _ = std::io::stderr().write_all(line.finish().as_bytes());
    }

    // Spans are not told of.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event on its way to be a line: the moment since the kernel's start, as
/// the kernel's own log has it, the level, the sentence, and its values.
struct Line {
    heading: String,
    sentence: String,
    values: String,
}

impl Line {
    fn begin(metadata: &Metadata<'_>) -> Self {
        let now = time::uptime();
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        let heading = format!("[{seconds:5}.{micros:06}] {:5} ", metadata.level());
        Self { heading, sentence: String::new(), values: String::new() }
    }

    /// What came from a peer may hold control characters; none gets through.
    fn finish(self) -> String {
        let mut line = self.heading;
        for character in self.sentence.chars().chain(self.values.chars()) {
            match character.is_control() {
                true => line.extend(character.escape_default()),
                false => line.push(character),
            }
        }
        line.push('\n');
        line
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let written = match field.name() {
            "message" => self.sentence.write_fmt(value),
            name => write!(self.values, " {name}={value}"),
        };
        written.expect("a string takes everything");
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_levels_and_ours_wins() {
        assert_eq!(parse_directives("debug"), Some(LevelFilter::DEBUG));
        assert_eq!(parse_directives("warn,infiniservice=trace,x=off"), Some(LevelFilter::TRACE));
        assert_eq!(parse_directives("vmm_service=debug"), Some(LevelFilter::ERROR));
        assert_eq!(parse_directives("loud"), None);
        assert_eq!(parse_directives("infiniservice=loud"), None);
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        let line = Line {
            heading: "[    1.000000] INFO  ".into(),
            sentence: "A host said this.".into(),
            values: " name=\u{1b}[2J\nroot".into(),
        };
        assert_eq!(
            line.finish(),
            "[    1.000000] INFO  A host said this. name=\\u{1b}[2J\\nroot\n"
        );
    }
}
