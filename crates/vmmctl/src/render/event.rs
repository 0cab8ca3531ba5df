//! One line per event.

use serde_json::Value;
use vmm_api::event::{Event, EventKind};
use vmm_api::operation::{Operation, OperationState};

use super::clock::Clock;
use super::guest::detail;
use super::text::{Style, Text};
use super::units;
use super::vm::{agent, state, word};

/// How wide the names are, so that the lines of most VMs stand in columns.
const NAME_WIDTH: usize = 16;

/// How wide the word for the kind is.
const KIND_WIDTH: usize = 9;

/// How many changed facts are named.
const NAMED_FACTS: usize = 8;

/// The line of an event; `name` is that of its VM.
pub(crate) fn line(event: &Event, name: Option<&str>, clock: &Clock) -> Text {
    let (kind, what) = match &event.kind {
        EventKind::Created { .. } => ("created", Text::default()),
        EventKind::Changed { .. } => ("changed", Text::default()),
        EventKind::Deleted { .. } => ("deleted", Text::default()),
        EventKind::State { from, to, detail } => {
            let mut text = state(*from).and(Style::Faint, " → ").append(state(*to));
            if let Some(detail) = detail {
                text = text.and(Style::Plain, format!("  {detail}"));
            }
            ("state", text)
        }
        EventKind::Operation { operation } => ("operation", operation_text(operation)),
        EventKind::Agent { agent: now } => ("agent", agent(*now)),
        EventKind::Lifecycle { lifecycle } => {
            #[expect(clippy::cast_precision_loss, reason = "an uptime fits")]
            let after = units::duration(lifecycle.uptime_ms as f64 / 1000.0);
            let mut text = Text::new(word(&lifecycle.stage));
            if lifecycle.uptime_ms > 0 {
                text = text.and(Style::Faint, format!("  {after} after the kernel"));
            }
            if let Some(value) = &lifecycle.detail {
                text = text.and(Style::Faint, format!("  {}", detail(value)));
            }
            ("stage", text)
        }
        EventKind::Facts { full: true, .. } => ("facts", Text::new("all")),
        EventKind::Facts { full: false, facts } => {
            ("facts", Text::styled(Style::Faint, changed(facts)))
        }
        EventKind::Missed { count } => {
            let count = count.map_or_else(|| "events".to_owned(), |n| format!("{n} events"));
            ("missed", Text::styled(Style::Warning, format!("{count} lie before the next one")))
        }
    };
    let name = Text::new(name.unwrap_or("–")).cut(NAME_WIDTH);
    let room = " ".repeat(NAME_WIDTH - name.width() + 2);
    Text::styled(Style::Faint, format!("{}  ", clock.local(event.at)))
        .append(name)
        .and(Style::Plain, room)
        .and(Style::Plain, format!("{kind:<KIND_WIDTH$}  "))
        .append(what)
        .trimmed()
}

fn operation_text(operation: &Operation) -> Text {
    let kind = word(&operation.kind);
    match operation.state {
        OperationState::Running => {
            let percent = operation.progress * 100.0;
            Text::styled(Style::Moving, format!("{kind} goes on  {}", units::percent(percent)))
        }
        OperationState::Succeeded => Text::styled(Style::Good, format!("{kind} succeeded")),
        OperationState::Failed => Text::styled(Style::Bad, format!("{kind} failed"))
            .and(Style::Plain, ": ")
            .and(Style::Plain, operation.error.as_deref().unwrap_or("without a reason")),
    }
}

/// Which facts a patch changes: sections, and what in them where they are
/// collections.
fn changed(patch: &Value) -> String {
    let Value::Object(sections) = patch else { return String::new() };
    let mut names: Vec<String> = Vec::new();
    for (section, change) in sections {
        match change {
            Value::Object(entries) if entries.values().all(|e| e.is_object() || e.is_null()) => {
                names.extend(entries.keys().map(|key| format!("{section} {key}")));
            }
            _ => names.push(section.clone()),
        }
    }
    let more = names.len().saturating_sub(NAMED_FACTS);
    names.truncate(NAMED_FACTS);
    let mut text = names.join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    text
}
