//! A VM from the host's side: the list, and what `info` tells.

use vmm_api::guest::AgentState;
use vmm_api::vm::{DiskFormat, Network, State, Vm};

use super::clock::Clock;
use super::table::{Column, Layout, Table};
use super::text::{Style, Text};
use super::units;

/// How wide the labels of `info` and `guest` are.
pub(crate) const LABEL_WIDTH: usize = 12;

/// How much of a state's reason the list shows; `info` shows all.
const MAX_WHY_WIDTH: usize = 60;

const MIB: u64 = 1024 * 1024;

/// The state's word in its colour.
pub(crate) fn state(state: State) -> Text {
    let style = match state {
        State::Running => Style::Good,
        State::Paused => Style::Warning,
        State::Starting | State::Stopping | State::Deleting => Style::Moving,
        State::Failed => Style::Bad,
        State::Created | State::Stopped => Style::Faint,
    };
    Text::styled(style, word(&state))
}

/// The agent's word in its colour.
pub(crate) fn agent(agent: AgentState) -> Text {
    let style = match agent {
        AgentState::Connected => Style::Good,
        AgentState::Silent => Style::Bad,
        AgentState::Absent => Style::Faint,
    };
    Text::styled(style, word(&agent))
}

/// The word that the API has for a value.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A label and what it stands for.
pub(crate) fn field(label: &str, value: Text) -> Text {
    Text::styled(Style::Faint, format!("{label:<LABEL_WIDTH$}")).append(value)
}

/// The table of `list`, page by page.
#[derive(Debug, Default)]
pub(crate) struct List {
    layout: Option<Layout>,
}

impl List {
    /// The lines of the next page, the header before the first. With `more`
    /// pages to come, columns that have nothing to show yet are kept for them.
    pub(crate) fn page(
        &mut self,
        vms: &[Vm],
        more: bool,
        clock: &Clock,
        width: Option<usize>,
    ) -> Vec<Text> {
        let mut table = rows(vms, clock);
        if let Some(layout) = &mut self.layout {
            return table.more_lines(layout, width);
        }
        if more {
            table = table.steady();
        }
        let lines = table.lines(width);
        self.layout = Some(table.layout(width));
        lines
    }
}

fn rows(vms: &[Vm], clock: &Clock) -> Table {
    let mut table = Table::new(vec![
        Column::left("NAME").shrinks_to(12),
        Column::left("STATE"),
        Column::right("SINCE").importance(60),
        Column::right("CPUS").importance(70),
        Column::right("MEMORY").importance(80),
        Column::left("AGENT").importance(90),
        Column::right("HEARD").importance(50),
        Column::left("STAGE").importance(55),
        Column::left("LABELS").importance(30).shrinks_to(16),
        Column::right("PID").importance(20),
        Column::left("ID").importance(10),
        Column::left("WHY").importance(40).shrinks_to(40),
    ]);
    for vm in vms {
        let labels: Vec<String> =
            vm.spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        // What the guest of a VM said that does not run any more is history.
        let (heard, stage) = if runs(vm) { (vm.guest.age_s, vm.guest.stage) } else { (None, None) };
        table.row(vec![
            Text::styled(Style::Strong, &vm.spec.name),
            state(vm.state),
            Text::new(units::short_duration(clock.since(vm.state_changed_at))),
            Text::new(vm.spec.vcpus.to_string()),
            Text::new(units::bytes(vm.spec.memory_mib.saturating_mul(MIB))),
            agent_where_possible(vm),
            heard.map_or_else(Text::absent, |age| Text::new(units::short_duration(age))),
            stage.map_or_else(Text::absent, |stage| Text::new(word(&stage))),
            Text::new(labels.join(",")),
            vm.pid.map_or_else(Text::absent, |pid| Text::new(pid.to_string())),
            Text::styled(Style::Faint, vm.id.to_string()),
            Text::new(vm.state_detail.as_deref().unwrap_or_default()).cut(MAX_WHY_WIDTH),
        ]);
    }
    table
}

/// Everything that the host knows of a VM.
pub(crate) fn info(vm: &Vm, clock: &Clock, width: Option<usize>) -> Vec<Text> {
    let since = units::duration(clock.since(vm.state_changed_at));
    let mut lines = vec![field(
        "Name",
        Text::styled(Style::Strong, &vm.spec.name).and(Style::Faint, format!("  {}", vm.id)),
    )];
    let mut state_line = state(vm.state).and(Style::Plain, format!(" for {since}"));
    if let Some(pid) = vm.pid {
        state_line = state_line.and(Style::Faint, format!("  process {pid}"));
    }
    lines.push(field("State", state_line));
    if let Some(detail) = &vm.state_detail {
        lines.push(field("", Text::new(detail)));
    }
    lines.push(field("Guest", guest_line(vm)));
    lines.push(field("Created", Text::new(clock.local(vm.created_at))));
    let memory = units::bytes(vm.spec.memory_mib.saturating_mul(MIB));
    lines.push(field(
        "Machine",
        Text::new(format!(
            "{}, {memory}",
            units::count(u64::from(vm.spec.vcpus), "processor", "processors")
        )),
    ));
    if vm.spec.autostart {
        lines.push(field("Autostart", Text::new("when the host has booted")));
    }
    for (label, value) in
        [("Kernel", &vm.spec.kernel), ("Initrd", &vm.spec.initrd), ("Arguments", &vm.spec.cmdline)]
    {
        if let Some(value) = value {
            lines.push(field(label, Text::new(value)));
        }
    }
    for (key, value) in &vm.spec.labels {
        lines.push(field("Label", Text::new(format!("{key}={value}"))));
    }
    devices(vm, &mut lines);
    lines
        .into_iter()
        .map(|line| if let Some(width) = width { line.cut(width) } else { line })
        .collect()
}

fn devices(vm: &Vm, lines: &mut Vec<Text>) {
    for (index, disk) in vm.spec.disks.iter().enumerate() {
        let format = match disk.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        };
        let access = if disk.read_only { ", read-only" } else { "" };
        let text = Text::new(&disk.path).and(Style::Faint, format!("  {format}{access}"));
        lines.push(field(&format!("Disk {index}"), text));
    }
    for (index, nic) in vm.spec.nics.iter().enumerate() {
        let network = match nic.network {
            Network::Isolated => "isolated",
            Network::Passt => "passt",
        };
        let mac = nic.mac.as_deref().unwrap_or("address made from the VM's id");
        let text = Text::new(network).and(Style::Faint, format!("  {mac}"));
        lines.push(field(&format!("NIC {index}"), text));
    }
}

fn guest_line(vm: &Vm) -> Text {
    if !runs(vm) {
        return Text::absent();
    }
    let mut text = agent(vm.guest.agent);
    if let Some(stage) = vm.guest.stage {
        text = text.and(Style::Plain, format!(", {}", word(&stage)));
    }
    if let Some(age) = vm.guest.age_s {
        text = text.and(Style::Plain, format!(", heard {} ago", units::duration(age)));
    }
    text
}

/// A VM that does not run has no agent, which is no news.
pub(crate) fn agent_where_possible(vm: &Vm) -> Text {
    if runs(vm) { agent(vm.guest.agent) } else { Text::absent() }
}

/// Whether there is a guest to speak of.
pub(crate) fn runs(vm: &Vm) -> bool {
    matches!(vm.state, State::Running | State::Paused | State::Stopping)
}
