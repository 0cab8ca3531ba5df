//! The live table: one row per VM.

use guest_protocol::facts::Facts;
use vmm_api::guest::AgentState;
use vmm_api::list::{Sort, SortKey};
use vmm_api::vm::State;

use super::bar::{bar, level};
use super::clock::Clock;
use super::guest::uptime;
use super::table::{Column, Table};
use super::text::{Style, Text};
use super::units;
use super::vm::{agent_where_possible, state};
use crate::fleet::{Member, Totals};

/// From how many columns on there is room for bars and whole units.
const WIDE: usize = 128;

/// How wide a bar is in the wide table.
const BAR_WIDTH: usize = 10;

/// Block devices that stand on other ones, whose transfers would count twice.
const STACKED_DEVICES: [&str; 4] = ["dm-", "md", "loop", "zram"];

/// One line that says how the fleet stands.
pub(crate) fn summary(totals: &Totals) -> Text {
    let mut text = Text::styled(Style::Strong, units::count(totals.all as u64, "VM", "VMs"));
    let of = |state: State| totals.of(&[state]);
    let changing = totals.of(&[State::Starting, State::Stopping, State::Deleting]);
    let silent = if totals.silent == 1 { "silent agent" } else { "silent agents" };
    for (count, style, word) in [
        (of(State::Running), Style::Good, "running"),
        (of(State::Failed), Style::Bad, "failed"),
        (totals.silent, Style::Bad, silent),
        (changing, Style::Moving, "changing"),
        (of(State::Paused), Style::Warning, "paused"),
        (of(State::Stopped), Style::Faint, "stopped"),
        (of(State::Created), Style::Faint, "created"),
    ] {
        if count > 0 {
            let words = format!("{} {word}", units::grouped(count as u64));
            text = text.and(Style::Plain, "  ").and(style, words);
        }
    }
    text
}

/// What part of a fleet is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// The first of the rows that are shown, from 0.
    pub(crate) top: usize,
    /// How many are shown.
    pub(crate) shown: usize,
    /// How many there are.
    pub(crate) rows: usize,
    pub(crate) sort: Sort,
    /// The pattern that names have to fit.
    pub(crate) pattern: Option<&'a str>,
}

/// One line that says which part of the fleet the table shows.
pub(crate) fn footer(part: &Part<'_>, columns: usize) -> Text {
    let first = if part.shown == 0 { 0 } else { part.top + 1 };
    let last = part.top + part.shown;
    let [first, last, rows] = [first, last, part.rows].map(|number| units::grouped(number as u64));
    let order = match (part.sort.key, part.sort.descending) {
        (SortKey::Problem, false) => "problems first".to_owned(),
        (key, false) => format!("by {}", key.as_str()),
        (key, true) => format!("by {}, reversed", key.as_str()),
    };
    let mut left = Text::new(format!("{first}–{last} of {rows}"));
    left = left.and(Style::Faint, format!("  {order}"));
    if let Some(pattern) = part.pattern {
        left = left.and(Style::Faint, "  names like ").and(Style::Plain, pattern);
    }
    let keys = ["↑ ↓ PgUp PgDn Home End scroll  / finds a name", "↑ ↓ PgUp PgDn scroll", ""];
    between(left, &keys.map(|keys| Text::styled(Style::Faint, keys)), columns)
}

/// A line with `left` at its left, and at its right the first of `right` that
/// there is room for; the last, if there is none for any.
pub(crate) fn between(left: Text, right: &[Text], columns: usize) -> Text {
    let fits = |right: &&Text| left.width() + right.width() + 2 <= columns;
    let right = right.iter().find(fits).or(right.last()).cloned().unwrap_or_default();
    let room = columns.saturating_sub(right.width());
    let left = left.cut(room.saturating_sub(2));
    let gap = " ".repeat(room - left.width());
    left.and(Style::Plain, gap).append(right)
}

/// The table.
pub(crate) fn table(members: &[&Member], clock: &Clock, width: Option<usize>) -> Vec<Text> {
    let wide = width.is_none_or(|width| width >= WIDE);
    let mut table = Table::new(if wide { wide_columns() } else { narrow_columns() }).steady();
    for member in members {
        table.row(row(member, clock, wide));
    }
    table.lines(width)
}

fn narrow_columns() -> Vec<Column> {
    vec![
        Column::left("NAME").shrinks_to(10),
        Column::left("STATE").at_least(8),
        Column::left("AGENT").importance(20).at_least(9),
        Column::right("CPU %").importance(90),
        Column::right("MEMORY").importance(85).at_least(11),
        Column::right("READ/s").importance(60).at_least(6),
        Column::right("WRITE/s").importance(60).at_least(6),
        Column::right("RECV/s").importance(50).at_least(6),
        Column::right("SEND/s").importance(50).at_least(6),
        Column::right("UP").importance(30).at_least(6),
        Column::right("HEARD").importance(95).at_least(5),
    ]
}

fn wide_columns() -> Vec<Column> {
    vec![
        Column::left("NAME").shrinks_to(10),
        Column::left("STATE").at_least(8),
        Column::left("AGENT").importance(20).at_least(9),
        Column::left("CPU").importance(12).at_least(BAR_WIDTH),
        Column::right("%").importance(90).at_least(5),
        Column::left("MEMORY").importance(10).at_least(BAR_WIDTH),
        Column::right("USED/TOTAL").importance(85).at_least(13),
        Column::right("READING").importance(60).at_least(10),
        Column::right("WRITING").importance(60).at_least(10),
        Column::right("RECEIVING").importance(50).at_least(10),
        Column::right("SENDING").importance(50).at_least(10),
        Column::right("UP").importance(30).at_least(6),
        Column::right("HEARD").importance(95).at_least(6),
    ]
}

fn row(member: &Member, clock: &Clock, wide: bool) -> Vec<Text> {
    let facts = &member.facts;
    let live = member.is_live();
    // Numbers of a guest that fell silent are old, and look old.
    let stale = member.vm.guest.agent == AgentState::Silent;
    let fresh = |text: Text| match (live, stale) {
        (false, _) => Text::absent(),
        (true, true) => Text::styled(Style::Faint, text.to_line(false)),
        (true, false) => text,
    };
    let mut cells = vec![
        Text::styled(Style::Strong, &member.vm.spec.name),
        state(member.vm.state),
        agent_where_possible(&member.vm),
    ];
    let cpu = facts.cpu.as_ref().and_then(|cpu| cpu.usage_percent);
    if wide {
        cells.push(fresh(cpu.map_or_else(Text::absent, |percent| bar(percent, BAR_WIDTH))));
    }
    cells.push(fresh(cpu.map_or_else(Text::absent, |percent| {
        Text::styled(attention(percent), units::short_percent(percent))
    })));
    cells.extend(memory_cells(facts, wide).into_iter().map(fresh));
    let rates = [
        disk_rate(facts, |disk| disk.read_bytes_per_second),
        disk_rate(facts, |disk| disk.written_bytes_per_second),
        network_rate(facts, |interface| interface.received_bytes_per_second),
        network_rate(facts, |interface| interface.sent_bytes_per_second),
    ];
    cells.extend(rates.map(|rate| fresh(rate_cell(rate, wide))));
    let up = uptime(facts, member.clock_offset_s, clock);
    cells.push(fresh(up.map_or_else(Text::absent, |up| Text::new(units::short_duration(up)))));
    cells.push(heard(member, clock));
    cells
}

/// Used of total, after a bar where there is room for one.
fn memory_cells(facts: &Facts, wide: bool) -> Vec<Text> {
    let Some(memory) = &facts.memory else {
        return vec![Text::absent(); if wide { 2 } else { 1 }];
    };
    let used = memory.total_bytes.saturating_sub(memory.available_bytes);
    let percent = units::share(used, memory.total_bytes);
    if wide {
        let text = units::part_of(used, memory.total_bytes);
        return vec![bar(percent, BAR_WIDTH), Text::styled(attention(percent), text)];
    }
    vec![Text::styled(attention(percent), units::short_part_of(used, memory.total_bytes))]
}

/// Colour only for what deserves it: a table of green numbers is noise.
fn attention(percent: f64) -> Style {
    match level(percent) {
        Style::Good => Style::Plain,
        other => other,
    }
}

fn rate_cell(rate: Option<u64>, wide: bool) -> Text {
    match rate {
        None => Text::absent(),
        Some(0) => Text::styled(Style::Faint, "0"),
        Some(rate) if wide => Text::new(format!("{}/s", units::bytes(rate))),
        Some(rate) => Text::new(units::short_bytes(rate)),
    }
}

fn heard(member: &Member, clock: &Clock) -> Text {
    let Some(age) = member.age_s(clock.now).filter(|_| member.is_live()) else {
        return Text::absent();
    };
    let style = match member.vm.guest.agent {
        AgentState::Silent => Style::Bad,
        _ => Style::Good,
    };
    Text::styled(style, units::short_duration(age))
}

fn disk_rate(
    facts: &Facts,
    rate: impl Fn(&guest_protocol::facts::Disk) -> Option<u64>,
) -> Option<u64> {
    let disks = facts.disks.as_ref()?.iter();
    sum(disks
        .filter(|(name, _)| !STACKED_DEVICES.iter().any(|stacked| name.starts_with(stacked)))
        .map(|(_, disk)| rate(disk)))
}

fn network_rate(
    facts: &Facts,
    rate: impl Fn(&guest_protocol::facts::Interface) -> Option<u64>,
) -> Option<u64> {
    let interfaces = facts.interfaces.as_ref()?.iter();
    sum(interfaces.filter(|(name, _)| *name != "lo").map(|(_, interface)| rate(interface)))
}

/// The sum of those that are known; nothing when none is.
fn sum(rates: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    rates.flatten().reduce(u64::saturating_add)
}
