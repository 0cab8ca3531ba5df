//! Every page as it looks at 80 and at 160 columns.

use serde_json::{Value, json};
use vmm_api::event::Event;
use vmm_api::guest::Guest;
use vmm_api::list::{Filter, Sort, SortKey};
use vmm_api::vm::Vm;

use super::clock::Clock;
use super::text::Text;
use super::{channel, event, guest, vm, watch};
use crate::fleet::{Fleet, Member};

fn clock() -> Clock {
    Clock::at("2026-11-21T14:03:07Z")
}

fn plain(lines: &[Text]) -> String {
    lines.iter().map(|line| line.to_line(false) + "\n").collect()
}

fn machine(number: u128, name: &str, state: &str, more: &Value) -> Vm {
    let mut vm = json!({
        "id": uuid::Uuid::from_u128(0x0193_f1c2_7000_7000_8000_0000_0000_0000 + number),
        "spec": {"name": name, "vcpus": 2, "memory_mib": 2048},
        "state": state,
        "created_at": "2026-11-21T13:00:00Z",
        "state_changed_at": "2026-11-21T13:58:00Z",
        "guest": {"agent": "absent"},
    });
    let target = vm.as_object_mut().unwrap();
    target.extend(more.as_object().unwrap().clone());
    serde_json::from_value(vm).unwrap()
}

fn vms() -> Vec<Vm> {
    vec![
        machine(
            1,
            "db-primary",
            "running",
            &json!({
                "spec": {
                    "name": "db-primary", "vcpus": 8, "memory_mib": 15_729,
                    "kernel": "/srv/kernels/vmlinuz-6.1.0-27-cloud-amd64",
                    "cmdline": "console=ttyS0 root=/dev/vda1 ro",
                    "disks": [
                        {"path": "/srv/disks/db-primary.qcow2", "format": "qcow2"},
                        {"path": "/srv/images/seed.iso", "format": "raw", "read_only": true},
                    ],
                    "nics": [{"network": "passt"}, {"network": "isolated", "mac": "52:54:00:12:34:56"}],
                    "labels": {"tier": "data", "owner": "ana"},
                },
                "pid": 48_113,
                "guest": {"agent": "connected", "age_s": 1.2, "stage": "boot-complete"},
            }),
        ),
        machine(
            2,
            "web-1",
            "running",
            &json!({
                "pid": 48_220, "guest": {"agent": "silent", "age_s": 94.0, "stage": "network-online"},
            }),
        ),
        machine(3, "web-2", "starting", &json!({"pid": 49_001})),
        machine(
            4,
            "batch-with-a-rather-long-name.example.org",
            "failed",
            &json!({
                "state_detail": "QEMU exited with status 1: cannot open /srv/disks/gone.raw",
            }),
        ),
        machine(5, "old", "stopped", &json!({"state_changed_at": "2026-11-12T09:00:00Z"})),
    ]
}

fn facts() -> Guest {
    const GIB: u64 = 1 << 30;
    serde_json::from_value(json!({
        "agent": "connected", "age_s": 1.2, "stage": "boot-complete",
        "agent_version": "infiniservice/0.1.0",
        "clock_offset_s": 0.0,
        "facts": {
            "os": {
                "family": "linux", "id": "debian", "version_id": "12",
                "pretty_name": "Debian GNU/Linux 12 (bookworm)",
                "kernel_release": "6.1.0-27-cloud-amd64", "architecture": "x86_64",
                "hostname": "db-primary",
            },
            "cpu": {"model": "AMD EPYC 7543P 32-Core Processor", "online": 8,
                    "usage_percent": 41.7, "steal_percent": 0.3},
            "memory": {"total_bytes": 15 * GIB, "available_bytes": 3 * GIB,
                       "swap_total_bytes": 2 * GIB, "swap_free_bytes": 2 * GIB - 40 * 1024 * 1024},
            "load": {"one_minute": 3.42, "five_minutes": 2.55, "fifteen_minutes": 1.38},
            "uptime": {"boot_time_s": 1_795_261_087_u64, "uptime_s": 8000},
            "disks": {
                "vda": {"size_bytes": 40 * GIB, "read_bytes": 7 * GIB, "written_bytes": 31 * GIB,
                        "read_operations": 183_211, "write_operations": 1_922_004,
                        "read_bytes_per_second": 0, "written_bytes_per_second": 13_107_200},
                "vdb": {"size_bytes": 366_592},
            },
            "filesystems": {
                "/": {"device": "/dev/vda1", "type": "ext4", "total_bytes": 38 * GIB,
                      "used_bytes": 12 * GIB, "available_bytes": 24 * GIB},
                "/var/lib/postgresql/15/main/base": {"device": "/dev/mapper/data-postgres",
                      "type": "xfs", "total_bytes": 900 * GIB, "used_bytes": 844 * GIB,
                      "available_bytes": 56 * GIB},
            },
            "interfaces": {
                "eth0": {"mac": "52:54:00:12:34:56", "up": true,
                         "addresses": ["10.0.2.15/24", "2001:db8:85a3::8a2e:370:7334/64"],
                         "received_bytes": 9 * GIB, "sent_bytes": GIB / 3,
                         "received_bytes_per_second": 1_400_000, "sent_bytes_per_second": 22_000},
                "lo": {"up": true, "addresses": ["127.0.0.1/8"]},
            },
        },
        "boot": [
            {"stage": "kernel-started", "uptime_ms": 0},
            {"stage": "agent-started", "uptime_ms": 2140},
            {"stage": "address-acquired", "uptime_ms": 2890, "detail": {"address": "10.0.2.15/24"}},
            {"stage": "boot-complete", "uptime_ms": 74_100},
        ],
        "dropped": {"malformed": 2},
    }))
    .unwrap()
}

fn fleet() -> Fleet {
    let sort = Sort { key: SortKey::Problem, descending: false };
    let mut fleet = Fleet::new(Vec::new(), Filter::default(), sort);
    let vms = vms();
    let clock = clock();
    let ids = [vms[0].id, vms[1].id];
    fleet.listed(vms, clock.now);
    fleet.told(ids[0], facts(), clock.now);
    let mut silent = facts();
    silent.summary.agent = vmm_api::guest::AgentState::Silent;
    silent.summary.age_s = Some(94.0);
    fleet.told(ids[1], silent, clock.now);
    fleet
}

/// One snapshot with both widths, none of whose lines may be wider.
fn snapshot(name: &str, page: impl Fn(Option<usize>) -> Vec<Text>) {
    let mut text = String::new();
    for width in [80, 160] {
        let lines = page(Some(width));
        for line in &lines {
            assert!(line.width() <= width, "{}", line.to_line(false));
        }
        text.push_str(&format!("{:-^width$}\n{}", format!(" {width} "), plain(&lines)));
    }
    insta::assert_snapshot!(name, text);
}

fn list_page(width: Option<usize>) -> Vec<Text> {
    vm::List::default().page(&vms(), false, &clock(), width)
}

#[test]
fn list() {
    snapshot("list", list_page);
}

#[test]
fn info() {
    snapshot("info", |width| vm::info(&vms()[0], &clock(), width));
}

#[test]
fn a_guest() {
    snapshot("guest", |width| guest::page(&vms()[0], &facts(), &clock(), width));
}

#[test]
fn a_guest_that_never_spoke() {
    snapshot("guest-absent", |width| guest::page(&vms()[1], &Guest::default(), &clock(), width));
}

#[test]
fn a_guests_channel() {
    let mut guest = facts();
    guest.channel = serde_json::from_value(json!({
        "received_bytes": 104_900_000, "received_messages": 1042, "hellos": 3, "port_opens": 1,
        "connections": 2, "pauses": {"bytes": 118, "event_bytes": 2}, "paused_s": 24.31,
        "withheld_changes": 40, "withheld_log_lines": 0,
    }))
    .unwrap();
    guest.dropped.garbage_bytes = 104_857_600;
    snapshot("channel", |width| channel::page(&vms()[0], &guest, &clock(), width));
}

#[test]
fn the_live_table() {
    snapshot("watch", |width| {
        let mut fleet = fleet();
        let rows = fleet.rows().to_vec();
        let members: Vec<&Member> = rows.iter().filter_map(|id| fleet.member(*id)).collect();
        let mut lines = vec![watch::summary(&fleet.totals())];
        lines.extend(watch::table(&members, &clock(), width));
        let part = watch::Part {
            top: 0,
            shown: 5,
            rows: 10_000,
            sort: Sort { key: SortKey::Problem, descending: false },
            pattern: Some("*b*"),
        };
        lines.push(watch::footer(&part, width.unwrap()));
        lines
    });
}

#[test]
fn pages_without_a_width_hold_everything() {
    let list = plain(&list_page(None));
    for whole in ["batch-with-a-rather-long-name.example.org", "owner=ana,tier=data"] {
        assert!(list.contains(whole), "{list}");
    }
    let page = plain(&guest::page(&vms()[0], &facts(), &clock(), None));
    assert!(page.contains("/var/lib/postgresql/15/main/base"), "{page}");
}

#[test]
fn events() {
    let kinds = [
        json!({"kind": "created", "name": "web-1"}),
        json!({"kind": "state", "from": "starting", "to": "failed", "detail": "the kernel is gone"}),
        json!({"kind": "agent", "agent": "connected"}),
        json!({"kind": "lifecycle", "lifecycle": {
            "stage": "address-acquired", "uptime_ms": 2890, "detail": {"address": "10.0.2.15/24"}}}),
        json!({"kind": "facts", "full": true, "facts": {"os": {}}}),
        json!({"kind": "facts", "full": false, "facts": {
            "cpu": {"usage_percent": 3.0}, "disks": {"vda": {"read_bytes": 1}, "vdb": null}}}),
        json!({"kind": "operation", "operation": {
            "id": uuid::Uuid::nil(), "vm": uuid::Uuid::nil(), "kind": "start", "state": "failed",
            "progress": 1.0, "error": "the kernel is gone", "created_at": "2026-11-21T14:03:00Z"}}),
        json!({"kind": "missed"}),
    ];
    let lines: Vec<Text> = kinds
        .into_iter()
        .map(|mut kind| {
            kind["at"] = json!("2026-11-21T14:03:00Z");
            let event: Event = serde_json::from_value(kind).unwrap();
            event::line(&event, Some("web-1"), &clock())
        })
        .collect();
    insta::assert_snapshot!("events", plain(&lines));
}
