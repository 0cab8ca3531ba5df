//! What came through a guest's channel, and what was thrown away or held back
//! of it. Counters of the host's own: nothing here is the guest's word but its
//! agent's version.

use vmm_api::guest::{ChannelCounters, ChannelDrops, Guest};
use vmm_api::vm::Vm;

use super::clock::Clock;
use super::guest::{fit, heading, section};
use super::table::{Column, Table};
use super::text::{Style, Text};
use super::units;
use super::vm::field;

/// The page.
pub(crate) fn page(vm: &Vm, guest: &Guest, clock: &Clock, width: Option<usize>) -> Vec<Text> {
    let channel = &guest.channel;
    let mut lines = heading(vm, guest, clock);
    lines.push(field("Received", received(channel)));
    lines.push(field("Hellos", Text::new(channel.hellos.to_string())));
    let opened = format!(
        "opened {} by the guest, connected {} by the host",
        times(channel.port_opens),
        times(channel.connections)
    );
    lines.push(field("Port", Text::new(opened)));
    lines.push(field("Paused", paused(channel)));
    let mut lines = fit(lines, width);
    section(&mut lines, Some(pauses(channel)), width);
    section(&mut lines, Some(drops(&guest.dropped)), width);
    section(&mut lines, Some(withheld(channel)), width);
    lines
}

fn received(channel: &ChannelCounters) -> Text {
    let bytes = units::bytes(channel.received_bytes);
    let messages = units::count(channel.received_messages, "message", "messages");
    Text::new(format!("{bytes} in {messages}"))
}

fn paused(channel: &ChannelCounters) -> Text {
    if channel.pauses.total() == 0 {
        return Text::styled(Style::Faint, "never");
    }
    let (time, pauses) = (units::duration(channel.paused_s), times(channel.pauses.total()));
    Text::styled(Style::Warning, format!("{time} in all, {pauses}"))
}

fn pauses(channel: &ChannelCounters) -> Table {
    let mut table = counts("BUDGET", "USED UP");
    for (budget, pauses) in channel.pauses.each() {
        table.row(row(budget, pauses));
    }
    table
}

fn drops(dropped: &ChannelDrops) -> Table {
    let mut table = counts("THROWN AWAY", "COUNT");
    for (what, count) in [
        ("bytes of garbage", dropped.garbage_bytes),
        ("messages that were too long", dropped.too_long),
        ("messages that were nested too deep", dropped.too_deep),
        ("messages with too many values", dropped.too_wide),
        ("malformed messages", dropped.malformed),
        ("reports with too many facts", dropped.facts_over_limit),
        ("reports out of sequence", dropped.out_of_sequence),
    ] {
        table.row(row(what, count));
    }
    table
}

fn withheld(channel: &ChannelCounters) -> Table {
    let mut table = counts("NOT TOLD", "COUNT");
    table.row(row("comings and goings of the agent", channel.withheld_changes));
    table.row(row("lines of the daemon's log", channel.withheld_log_lines));
    table
}

fn counts(what: &'static str, count: &'static str) -> Table {
    Table::new(vec![
        Column::left(what).at_least(WHAT_WIDTH).shrinks_to(12),
        Column::right(count).at_least(COUNT_WIDTH),
    ])
}

/// How wide the first column of each table is, so that the numbers of all of
/// them stand in one column.
const WHAT_WIDTH: usize = 34;

/// How wide the second one is: a hundred megabytes, counted in bytes.
const COUNT_WIDTH: usize = 9;

fn row(what: &str, count: u64) -> Vec<Text> {
    let style = if count == 0 { Style::Faint } else { Style::Warning };
    vec![Text::new(what), Text::styled(style, count.to_string())]
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}
