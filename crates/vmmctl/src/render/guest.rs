//! What a guest tells about itself, on one page.

use std::collections::BTreeMap;

use guest_protocol::facts::{Cpu, Disk, Facts, Filesystem, Interface, Load, Memory, Os};
use vmm_api::guest::{AgentState, ChannelDrops, Guest};
use vmm_api::vm::Vm;

use super::bar::{bar, level};
use super::clock::Clock;
use super::table::{Column, Table};
use super::text::{Style, Text};
use super::units;
use super::vm::{agent, field, runs, state, word};

/// How wide the bars are, with little and with much room.
const BAR_WIDTHS: (usize, usize) = (20, 40);

/// How wide the longest address is: IPv6 in full with its prefix length.
const MAX_ADDRESS_WIDTH: usize = 43;

/// From how many columns on there is much room.
const WIDE: usize = 120;

/// The page.
pub(crate) fn page(vm: &Vm, guest: &Guest, clock: &Clock, width: Option<usize>) -> Vec<Text> {
    let wide = width.is_none_or(|width| width >= WIDE);
    let bar_width = if wide { BAR_WIDTHS.1 } else { BAR_WIDTHS.0 };
    let mut lines = heading(vm, guest, clock);
    let facts = &guest.facts;
    if let Some(os) = &facts.os {
        lines.extend(system(os));
    }
    if let Some(seconds) = uptime(facts, guest.clock_offset_s, clock) {
        lines.push(field("Up", Text::new(units::duration(seconds))));
    }
    if let Some(cpu) = &facts.cpu {
        lines.extend(processors(cpu, facts.load.as_ref(), bar_width));
    }
    if let Some(memory) = &facts.memory {
        lines.extend(memory_lines(memory, bar_width));
    }
    let mut lines = fit(lines, width);
    section(
        &mut lines,
        facts.filesystems.as_ref().map(|all| filesystems(all, bar_width / 2)),
        width,
    );
    section(&mut lines, facts.disks.as_ref().map(disks), width);
    section(&mut lines, facts.interfaces.as_ref().map(interfaces), width);
    if !guest.boot.is_empty() {
        section(&mut lines, Some(boot(guest)), width);
    }
    if let Some(text) = drops(&guest.dropped) {
        lines.extend(fit(vec![Text::default(), text], width));
    }
    lines
}

/// How long a guest has been up, now. The boot's moment is by the guest's
/// clock, whose distance from ours is known once it has spoken.
pub(crate) fn uptime(facts: &Facts, clock_offset_s: Option<f64>, clock: &Clock) -> Option<f64> {
    let uptime = facts.uptime.as_ref()?;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
    let (boot, told) = (uptime.boot_time_s as f64, uptime.uptime_s as f64);
    let Some(offset) = clock_offset_s else { return Some(told) };
    let since = clock.now.as_duration().as_secs_f64() + offset - boot;
    Some(if boot > 0.0 && since >= 0.0 { since } else { told })
}

pub(super) fn heading(vm: &Vm, guest: &Guest, clock: &Clock) -> Vec<Text> {
    let since = units::duration(clock.since(vm.state_changed_at));
    let first = Text::styled(Style::Strong, &vm.spec.name)
        .and(Style::Plain, "  ")
        .append(state(vm.state))
        .and(Style::Faint, format!(" for {since}"));
    let mut agent_line = agent(guest.summary.agent);
    if let Some(age) = guest.summary.age_s {
        agent_line = agent_line.and(Style::Plain, format!(", heard {} ago", units::duration(age)));
    }
    if let Some(version) = &guest.agent_version {
        agent_line = agent_line.and(Style::Faint, "  ").and(Style::Faint, version);
    }
    if guest.summary.agent == AgentState::Absent {
        let why = if runs(vm) {
            ": nothing heard in this run; is infiniservice in the guest?"
        } else {
            ": the VM does not run"
        };
        agent_line = agent_line.and(Style::Plain, why);
    }
    vec![first, Text::default(), field("Agent", agent_line)]
}

fn system(os: &Os) -> Vec<Text> {
    let name = if os.pretty_name.is_empty() { &os.family } else { &os.pretty_name };
    vec![
        field("System", Text::new(name)),
        field("Kernel", Text::new(format!("{} {}", os.kernel_release, os.architecture))),
        field("Host name", Text::new(&os.hostname)),
    ]
}

fn processors(cpu: &Cpu, load: Option<&Load>, bar_width: usize) -> Vec<Text> {
    let model = Text::new(format!("{} × {}", cpu.online, cpu.model));
    let mut lines = vec![field("Processors", model)];
    let mut usage = Text::default();
    if let Some(percent) = cpu.usage_percent {
        usage = bar(percent, bar_width)
            .and(level(percent), format!("  {:>7}", units::percent(percent)));
    }
    if let Some(steal) = cpu.steal_percent.filter(|steal| *steal >= 0.05) {
        usage = usage.and(Style::Warning, format!("  stolen {}", units::percent(steal)));
    }
    if let Some(load) = load {
        let averages = [load.one_minute, load.five_minutes, load.fifteen_minutes]
            .map(|average| format!("{average:.2}"))
            .join(" ");
        usage = usage.and(Style::Faint, "  load ").and(Style::Plain, averages);
    }
    if !usage.is_empty() {
        lines.push(field("", usage));
    }
    lines
}

fn memory_lines(memory: &Memory, bar_width: usize) -> Vec<Text> {
    let used = memory.total_bytes.saturating_sub(memory.available_bytes);
    let percent = units::share(used, memory.total_bytes);
    let mut lines = vec![field(
        "Memory",
        bar(percent, bar_width)
            .and(level(percent), format!("  {:>7}", units::percent(percent)))
            .and(Style::Plain, format!("  {}", units::part_of(used, memory.total_bytes))),
    )];
    if memory.swap_total_bytes > 0 {
        let used = memory.swap_total_bytes.saturating_sub(memory.swap_free_bytes);
        let percent = units::share(used, memory.swap_total_bytes);
        lines.push(field(
            "Swap",
            bar(percent, bar_width)
                .and(level(percent), format!("  {:>7}", units::percent(percent)))
                .and(Style::Plain, format!("  {}", units::part_of(used, memory.swap_total_bytes))),
        ));
    }
    lines
}

fn filesystems(all: &BTreeMap<String, Filesystem>, bar_width: usize) -> Table {
    let mut table = Table::new(vec![
        Column::left("FILE SYSTEM").shrinks_to(24),
        Column::left("TYPE").importance(30).shrinks_to(6),
        Column::left("DEVICE").importance(10).shrinks_to(16),
        Column::right("SIZE").importance(50),
        Column::right("USED").importance(60),
        Column::right("FREE").importance(40),
        Column::left("USE").importance(20),
        Column::right("").importance(70),
    ]);
    for (mount, each) in all {
        let percent = units::share(each.used_bytes, each.total_bytes);
        table.row(vec![
            Text::new(mount),
            Text::new(&each.fs_type),
            Text::new(&each.device),
            Text::new(units::bytes(each.total_bytes)),
            Text::new(units::bytes(each.used_bytes)),
            Text::new(units::bytes(each.available_bytes)),
            bar(percent, bar_width),
            Text::styled(level(percent), units::percent(percent)),
        ]);
    }
    table
}

fn disks(all: &BTreeMap<String, Disk>) -> Table {
    let mut table = Table::new(vec![
        Column::left("DISK").shrinks_to(8),
        Column::right("SIZE").importance(50),
        Column::right("READING").importance(60),
        Column::right("WRITING").importance(60),
        Column::right("READ").importance(30),
        Column::right("WRITTEN").importance(30),
        Column::right("READS").importance(10),
        Column::right("WRITES").importance(10),
    ]);
    for (name, disk) in all {
        table.row(vec![
            Text::new(name),
            Text::new(units::bytes(disk.size_bytes)),
            rate(disk.read_bytes_per_second),
            rate(disk.written_bytes_per_second),
            Text::new(units::bytes(disk.read_bytes)),
            Text::new(units::bytes(disk.written_bytes)),
            Text::new(disk.read_operations.to_string()),
            Text::new(disk.write_operations.to_string()),
        ]);
    }
    table
}

fn interfaces(all: &BTreeMap<String, Interface>) -> Table {
    let mut table = Table::new(vec![
        Column::left("INTERFACE").shrinks_to(8),
        Column::left("LINK").importance(60),
        Column::left("ADDRESSES").importance(70),
        Column::right("RECEIVING").importance(50),
        Column::right("SENDING").importance(50),
        Column::left("MAC").importance(40),
        Column::right("RECEIVED").importance(20),
        Column::right("SENT").importance(20),
    ]);
    for (name, interface) in all {
        let mut addresses = interface.addresses.iter();
        let link = if interface.up {
            Text::styled(Style::Good, "up")
        } else {
            Text::styled(Style::Faint, "down")
        };
        table.row(vec![
            Text::new(name),
            link,
            addresses.next().map_or_else(Text::absent, address),
            rate(interface.received_bytes_per_second),
            rate(interface.sent_bytes_per_second),
            interface.mac.as_ref().map_or_else(Text::absent, Text::new),
            Text::new(units::bytes(interface.received_bytes)),
            Text::new(units::bytes(interface.sent_bytes)),
        ]);
        // Further addresses stand beneath the first.
        for another in addresses {
            let mut row = vec![Text::default(); 8];
            row[2] = address(another);
            table.row(row);
        }
    }
    table
}

/// Whole where it is an address, which people copy.
fn address(text: impl AsRef<str>) -> Text {
    Text::new(text).cut(MAX_ADDRESS_WIDTH)
}

fn boot(guest: &Guest) -> Table {
    let mut table = Table::new(vec![
        Column::left("BOOT"),
        Column::right("AFTER"),
        Column::left("").importance(50).shrinks_to(10),
    ]);
    for lifecycle in &guest.boot {
        #[expect(clippy::cast_precision_loss, reason = "an uptime fits")]
        let seconds = lifecycle.uptime_ms as f64 / 1000.0;
        let after =
            if seconds < 60.0 { format!("{seconds:.2} s") } else { units::duration(seconds) };
        let detail = lifecycle.detail.as_ref().map(detail).unwrap_or_default();
        table.row(vec![
            Text::new(word(&lifecycle.stage)),
            Text::new(after),
            Text::styled(Style::Faint, detail),
        ]);
    }
    table
}

/// What more a stage says: a text as it is, an object's values by their keys.
pub(crate) fn detail(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| match value {
                serde_json::Value::String(text) => format!("{key} {text}"),
                other => format!("{key} {other}"),
            });
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A guest whose messages had to be thrown away is broken or hostile.
fn drops(drops: &ChannelDrops) -> Option<Text> {
    let kinds = [
        (drops.garbage_bytes, "bytes of garbage"),
        (drops.too_long, "too long"),
        (drops.too_deep, "nested too deep"),
        (drops.too_wide, "with too many values"),
        (drops.malformed, "malformed"),
        (drops.facts_over_limit, "with too many facts"),
        (drops.out_of_sequence, "out of sequence"),
    ];
    let told: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    if told.is_empty() {
        return None;
    }
    Some(
        Text::styled(Style::Warning, "Thrown away of what the guest sent: ")
            .and(Style::Plain, told.join(", ")),
    )
}

fn rate(bytes_per_second: Option<u64>) -> Text {
    match bytes_per_second {
        None => Text::absent(),
        Some(0) => Text::styled(Style::Faint, "0 B/s"),
        Some(rate) => Text::new(format!("{}/s", units::bytes(rate))),
    }
}

pub(super) fn section(lines: &mut Vec<Text>, table: Option<Table>, width: Option<usize>) {
    let Some(table) = table else { return };
    if table.is_empty() {
        return;
    }
    lines.push(Text::default());
    lines.extend(table.lines(width));
}

pub(super) fn fit(lines: Vec<Text>, width: Option<usize>) -> Vec<Text> {
    match width {
        None => lines,
        Some(width) => lines.into_iter().map(|line| line.cut(width)).collect(),
    }
}
