//! The Prometheus text, format 0.0.4, made when it is asked for.
//!
//! A guest chooses neither the names nor the number of series: its disks and
//! interfaces are summed, so that a guest with ten thousand of them costs a
//! scraper no more than any other.

use std::fmt::Write;

use guest_protocol::facts::{Disk, Facts, Interface};
use vmm_api::guest::{AgentState, Guest};
use vmm_api::vm::{State, Vm};

/// The content type of what [`render`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A family of series with one series a VM.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Vm, &Guest) -> Option<f64>,
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&Vm, &Guest) -> Option<f64>,
) -> Family {
    Family { name, kind: "gauge", help, value }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&Vm, &Guest) -> Option<f64>,
) -> Family {
    Family { name, kind: "counter", help, value }
}

const FAMILIES: &[Family] = &[
    gauge("infinibay_vm_running", "Whether the VM's processors run (1) or not (0).", |vm, _| {
        Some(f64::from(u8::from(vm.state == State::Running)))
    }),
    gauge(
        "infinibay_guest_agent_connected",
        "Whether the guest's agent said hello and speaks (1) or not (0).",
        |_, guest| Some(f64::from(u8::from(guest.summary.agent == AgentState::Connected))),
    ),
    gauge(
        "infinibay_guest_agent_age_seconds",
        "Time since the last word of the guest's agent.",
        |_, guest| guest.summary.age_s,
    ),
    gauge(
        "infinibay_guest_cpu_usage_ratio",
        "Share of the guest's processors' time that was not idle, by its own word.",
        |_, guest| Some(guest.facts.cpu.as_ref()?.usage_percent? / 100.0),
    ),
    gauge(
        "infinibay_guest_memory_total_bytes",
        "The memory that the guest's kernel manages, by its own word.",
        |_, guest| Some(guest.facts.memory.as_ref()?.total_bytes as f64),
    ),
    gauge(
        "infinibay_guest_memory_available_bytes",
        "The memory that a new program in the guest could have, by its own word.",
        |_, guest| Some(guest.facts.memory.as_ref()?.available_bytes as f64),
    ),
    gauge(
        "infinibay_guest_boot_time_seconds",
        "When the guest booted, by its own clock, since the epoch.",
        |_, guest| Some(guest.facts.uptime.as_ref()?.boot_time_s as f64),
    ),
    counter(
        "infinibay_guest_disk_read_bytes_total",
        "What the guest read from its disks since it booted, by its own word.",
        |_, guest| disks(&guest.facts, |disk| disk.read_bytes),
    ),
    counter(
        "infinibay_guest_disk_written_bytes_total",
        "What the guest wrote to its disks since it booted, by its own word.",
        |_, guest| disks(&guest.facts, |disk| disk.written_bytes),
    ),
    counter(
        "infinibay_guest_network_received_bytes_total",
        "What the guest received since it booted, by its own word, without its loopback.",
        |_, guest| interfaces(&guest.facts, |interface| interface.received_bytes),
    ),
    counter(
        "infinibay_guest_network_sent_bytes_total",
        "What the guest sent since it booted, by its own word, without its loopback.",
        |_, guest| interfaces(&guest.facts, |interface| interface.sent_bytes),
    ),
    counter(
        "infinibay_channel_received_bytes_total",
        "Bytes read from the guest's channel.",
        |_, guest| Some(guest.channel.received_bytes as f64),
    ),
    counter(
        "infinibay_channel_received_messages_total",
        "Objects read from the guest's channel, whole or refused.",
        |_, guest| Some(guest.channel.received_messages as f64),
    ),
    counter(
        "infinibay_channel_hellos_total",
        "How often an agent introduced itself on the guest's channel.",
        |_, guest| Some(guest.channel.hellos as f64),
    ),
    counter(
        "infinibay_channel_port_opens_total",
        "How often the guest opened its port after it was closed.",
        |_, guest| Some(guest.channel.port_opens as f64),
    ),
    counter(
        "infinibay_channel_connections_total",
        "How often the daemon connected to the guest's channel.",
        |_, guest| Some(guest.channel.connections as f64),
    ),
    counter(
        "infinibay_channel_garbage_bytes_total",
        "Bytes of the guest's channel that belonged to no object.",
        |_, guest| Some(guest.dropped.garbage_bytes as f64),
    ),
    counter(
        "infinibay_channel_refused_reports_total",
        "Reports of the guest that would have passed the limits on facts.",
        |_, guest| Some(guest.dropped.facts_over_limit as f64),
    ),
    counter(
        "infinibay_channel_paused_seconds_total",
        "How long the guest was not read because it used up a budget.",
        |_, guest| Some(guest.channel.paused_s),
    ),
    counter(
        "infinibay_channel_withheld_changes_total",
        "Comings and goings of the guest's agent too frequent to be told as events.",
        |_, guest| Some(guest.channel.withheld_changes as f64),
    ),
    counter(
        "infinibay_channel_withheld_log_lines_total",
        "Lines caused by the guest that were left out of the daemon's log.",
        |_, guest| Some(guest.channel.withheld_log_lines as f64),
    ),
];

/// A family of counters with several series a VM: one for each value of one
/// label, which are always the same.
struct Labelled {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: fn(&Guest) -> Vec<(&'static str, u64)>,
}

const LABELLED: &[Labelled] = &[
    Labelled {
        name: "infinibay_channel_dropped_objects_total",
        help: "Objects of the guest's channel that were thrown away, by the reason.",
        label: "reason",
        values: |guest| {
            let dropped = &guest.dropped;
            vec![
                ("too-long", dropped.too_long),
                ("too-deep", dropped.too_deep),
                ("too-wide", dropped.too_wide),
                ("malformed", dropped.malformed),
                ("out-of-sequence", dropped.out_of_sequence),
            ]
        },
    },
    Labelled {
        name: "infinibay_channel_pauses_total",
        help: "How often the guest was not read for a while, by the budget that it used up.",
        label: "budget",
        values: |guest| guest.channel.pauses.each().to_vec(),
    },
];

/// What goes on at the unix socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Door {
    /// Connections that are in.
    pub connections: usize,
    /// Connections refused so far.
    pub refused: u64,
    /// Connections delayed so far.
    pub delayed: u64,
    /// How many watch events.
    pub streams: usize,
}

/// Everything, as text.
pub fn render(door: &Door, machines: &[(Vm, Guest)]) -> String {
    let mut text = String::new();
    head(&mut text, "infinibay_build_info", "gauge", "The daemon's version; always 1.");
    line(&mut text, "infinibay_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);

    let single = [
        (
            "infinibay_api_connections",
            "gauge",
            "Connections to the unix socket.",
            door.connections as f64,
        ),
        (
            "infinibay_api_refused_connections_total",
            "counter",
            "Connections refused, for their process had too many.",
            door.refused as f64,
        ),
        (
            "infinibay_api_delayed_connections_total",
            "counter",
            "Connections delayed, for their process made them too fast.",
            door.delayed as f64,
        ),
        ("infinibay_event_streams", "gauge", "How many watch events.", door.streams as f64),
    ];
    for (name, kind, help, value) in single {
        head(&mut text, name, kind, help);
        line(&mut text, name, &[], value);
    }

    head(&mut text, "infinibay_vms", "gauge", "How many VMs are in each state.");
    for state in State::ALL {
        let count = machines.iter().filter(|(vm, _)| vm.state == state).count();
        line(&mut text, "infinibay_vms", &[("state", state.as_str())], count as f64);
    }
    // Made once for all of a VM's series.
    let names: Vec<String> = machines.iter().map(|(vm, _)| names(vm)).collect();
    for family in FAMILIES {
        head(&mut text, family.name, family.kind, family.help);
        for ((vm, guest), names) in machines.iter().zip(&names) {
            if let Some(value) = (family.value)(vm, guest) {
                series(&mut text, family.name, names, &[], value);
            }
        }
    }
    for family in LABELLED {
        head(&mut text, family.name, "counter", family.help);
        for ((_, guest), names) in machines.iter().zip(&names) {
            for (label, value) in (family.values)(guest) {
                series(&mut text, family.name, names, &[(family.label, label)], value as f64);
            }
        }
    }
    text
}

fn disks(facts: &Facts, value: fn(&Disk) -> u64) -> Option<f64> {
    Some(facts.disks.as_ref()?.values().map(|disk| value(disk) as f64).sum())
}

fn interfaces(facts: &Facts, value: fn(&Interface) -> u64) -> Option<f64> {
    let interfaces = facts.interfaces.as_ref()?.iter().filter(|(name, _)| *name != "lo");
    Some(interfaces.map(|(_, interface)| value(interface) as f64).sum())
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// The labels that say which VM.
fn names(vm: &Vm) -> String {
    let mut text = String::new();
    label(&mut text, "vm", &vm.id.to_string());
    label(&mut text, "name", &vm.spec.name);
    text
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    series(text, name, "", labels, value);
}

/// A line with labels that are written already, and further ones. Ten thousand
/// VMs have a quarter of a million of these, so that none makes a text of its
/// own.
fn series(text: &mut String, name: &str, known: &str, labels: &[(&str, &str)], value: f64) {
    text.push_str(name);
    let start = text.len();
    text.push('{');
    text.push_str(known);
    for (key, value) in labels {
        label(text, key, value);
    }
    // Each label ends with a comma, of which the last is one too many, as is
    // the brace of none.
    text.pop();
    if text.len() > start {
        text.push('}');
    }
    writeln!(text, " {value}").expect("a String takes everything");
}

/// Label values are our own identifiers and checked names, and escaped all the
/// same: the format must hold whatever a later label says.
fn label(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => text.push_str(r"\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str(r"\n"),
            other => text.push(other),
        }
    }
    text.push_str("\",");
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use guest_protocol::facts::{Cpu, Memory};
    use jiff::Timestamp;
    use uuid::Uuid;
    use vmm_api::vm::VmSpec;

    use super::*;

    fn machine(name: &str) -> (Vm, Guest) {
        let spec: VmSpec = serde_json::from_value(serde_json::json!({
            "name": name, "vcpus": 1, "memory_mib": 64,
        }))
        .unwrap();
        let vm = Vm {
            id: Uuid::nil(),
            spec,
            state: State::Running,
            state_detail: None,
            pid: None,
            created_at: Timestamp::UNIX_EPOCH,
            state_changed_at: Timestamp::UNIX_EPOCH,
            guest: vmm_api::guest::GuestSummary::default(),
        };
        let mut guest = Guest::default();
        guest.summary.age_s = Some(0.25);
        guest.facts.cpu = Some(Cpu { usage_percent: Some(12.5), ..Cpu::default() });
        guest.facts.memory = Some(Memory { total_bytes: 1 << 28, ..Memory::default() });
        guest.channel.pauses.events = 3;
        (vm, guest)
    }

    #[test]
    fn a_series_carries_the_vm_and_base_units() {
        let text = render(&Door::default(), &[machine("web")]);
        let id = Uuid::nil();
        assert!(text.contains("infinibay_vms{state=\"running\"} 1\n"));
        assert!(text.contains(&format!(
            "infinibay_guest_cpu_usage_ratio{{vm=\"{id}\",name=\"web\"}} 0.125\n"
        )));
        assert!(!text.contains("disk_read_bytes_total{"), "what was not told is not shown");
        assert!(text.contains(&format!(
            "infinibay_channel_pauses_total{{vm=\"{id}\",name=\"web\",budget=\"events\"}} 3\n"
        )));
        assert!(text.contains("name=\"web\",reason=\"too-wide\"} 0\n"), "zeros are told, too");
    }

    #[test]
    fn a_label_cannot_break_out() {
        let mut text = String::new();
        line(&mut text, "x", &[("name", "a\"} 1\n\\")], 1.0);
        assert_eq!(text, "x{name=\"a\\\"} 1\\n\\\\\"} 1\n");
    }

    /// The format's own checker, from the package `prometheus`.
    #[test]
    fn promtool_finds_nothing_to_say() {
        // `cargo xtask check` brings it and tells where it is.
        let promtool = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
        let mut child = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is not here: run cargo xtask check, or install prometheus");
        let text = render(&Door::default(), &[machine("web"), machine("db")]);
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
