//! One message of each kind, with values as a real guest would send them.

use std::collections::BTreeMap;

use guest_protocol::facts::{Cpu, Disk, Facts, Filesystem, Interface, Load, Memory, Os, Uptime};
use guest_protocol::limits::{DEFAULT_HEARTBEAT_S, PROTOCOLS};
use guest_protocol::message::{
    AgentHello, ErrorBody, ErrorClass, Event, GuestMessage, Heartbeat, Hello, Lifecycle, Outcome,
    Reply, Report, Request, Stage, TimedEvent, Timestamp,
};
use serde::Serialize;
use serde_json::{Value, json};

const HOST_SESSION: &str = "0d9c1f7ae2b84c35";
/// The session that the guest drew when it opened the port.
pub(crate) const GUEST_SESSION: &str = "b1946ac92492d234";

const CLOCK: Timestamp = Timestamp { seconds: 1_795_228_800, microseconds: 250_000 };

/// What `baseline-1` allows of the commands that exist.
const CAPABILITIES: [&str; 7] = [
    "agent-heartbeat",
    "agent-hello",
    "agent-report",
    "guest-info",
    "guest-ping",
    "guest-sync",
    "guest-sync-delimited",
];

/// A message and who gets it.
pub(crate) enum Message {
    ToGuest(Request),
    ToHost(GuestMessage),
}

/// Every message with the name of its golden file.
pub(crate) fn all() -> Vec<(&'static str, Message)> {
    let mut all = events();
    all.extend(opening());
    all.extend(commands());
    all.extend(errors());
    all
}

fn events() -> Vec<(&'static str, Message)> {
    let hello = Hello {
        protocols: PROTOCOLS.to_vec(),
        session: GUEST_SESSION.into(),
        agent_id: "7c9e6679f5a24bdb9f1e0c4d8a3b5e62".into(),
        agent: "infiniservice/0.1.0".into(),
        boot_id: "5f2d7a52-0a8e-4f0e-9f0a-3c1f0c7e9b11".into(),
        capabilities: CAPABILITIES.map(String::from).to_vec(),
        clock: CLOCK,
    };
    let heartbeat = Heartbeat { seq: 42, session: GUEST_SESSION.into(), clock: CLOCK };
    let full = Report { seq: 1, full: true, facts: value(full_facts()) };
    let partial = Report {
        seq: 2,
        full: false,
        facts: json!({
            "cpu": {"usage_percent": 12.5},
            "interfaces": {"eth1": null},
            "uptime": {"uptime_s": 101},
        }),
    };
    let ready = Lifecycle { stage: Stage::LoginReady, uptime_ms: 5_210, detail: None };
    let address = Lifecycle {
        stage: Stage::AddressAcquired,
        uptime_ms: 3_804,
        detail: Some(json!({"interface": "eth0", "address": "10.0.2.15/24"})),
    };
    vec![
        ("hello", event(Event::Hello(hello))),
        ("heartbeat", event(Event::Heartbeat(heartbeat))),
        ("report-full", event(Event::Report(full))),
        ("report-partial", event(Event::Report(partial))),
        ("lifecycle", event(Event::Lifecycle(ready))),
        ("lifecycle-detail", event(Event::Lifecycle(address))),
    ]
}

/// What only the host says unasked.
fn opening() -> Vec<(&'static str, Message)> {
    let hello = AgentHello {
        protocols: PROTOCOLS.to_vec(),
        session: HOST_SESSION.into(),
        peer_session: None,
        clock: CLOCK,
        heartbeat_s: DEFAULT_HEARTBEAT_S,
    };
    let confirm = AgentHello { peer_session: Some(GUEST_SESSION.into()), ..hello.clone() };
    let heartbeat = Heartbeat { seq: 42, session: HOST_SESSION.into(), clock: CLOCK };
    let hello = Some(value(hello));
    let confirm = Some(value(confirm));
    let heartbeat = Some(value(heartbeat));
    vec![
        ("agent-hello", request("agent-hello", hello, 1)),
        ("agent-hello-confirm", request("agent-hello", confirm, 2)),
        ("agent-hello-reply", result(json!({}), 2)),
        ("agent-heartbeat", request("agent-heartbeat", heartbeat, 3)),
        ("agent-heartbeat-reply", result(json!({}), 3)),
    ]
}

fn commands() -> Vec<(&'static str, Message)> {
    let supported: Vec<Value> = CAPABILITIES
        .iter()
        .map(|name| json!({"name": name, "enabled": true, "success-response": true}))
        .chain([json!({"name": "guest-shutdown", "enabled": false, "success-response": false})])
        .collect();
    let info = json!({"version": "0.1.0", "supported_commands": supported});
    let sync = Some(json!({"id": 1_795_228_800_250_i64}));
    let synced = json!(1_795_228_800_250_i64);
    let shutdown = Some(json!({"mode": "powerdown"}));
    vec![
        ("agent-report", request("agent-report", None, 4)),
        ("agent-report-reply", result(json!({}), 4)),
        ("guest-sync", request("guest-sync", sync.clone(), 5)),
        ("guest-sync-reply", result(synced.clone(), 5)),
        ("guest-sync-delimited", request("guest-sync-delimited", sync, 6)),
        ("guest-sync-delimited-reply", result(synced, 6)),
        ("guest-ping", request("guest-ping", None, 7)),
        ("guest-ping-reply", result(json!({}), 7)),
        ("guest-info", request("guest-info", None, 8)),
        ("guest-info-reply", result(info, 8)),
        ("guest-shutdown", request("guest-shutdown", shutdown, 9)),
    ]
}

fn errors() -> Vec<(&'static str, Message)> {
    let not_allowed = "The command guest-shutdown is not allowed by this guest's policy";
    vec![
        ("error-not-found", error(ErrorClass::CommandNotFound, not_allowed, Some(json!(9)))),
        (
            "error-generic",
            error(ErrorClass::GenericError, "The request is longer than 1 MiB", None),
        ),
    ]
}

/// Facts with every section, and every field once present and once absent.
pub(crate) fn full_facts() -> Facts {
    Facts {
        os: Some(Os {
            family: "linux".into(),
            id: "debian".into(),
            pretty_name: "Debian GNU/Linux 12 (bookworm)".into(),
            version_id: "12".into(),
            kernel_release: "6.1.0-40-cloud-amd64".into(),
            architecture: "x86_64".into(),
            hostname: "web-1".into(),
        }),
        cpu: Some(Cpu {
            model: "QEMU Virtual CPU version 2.5+".into(),
            online: 2,
            usage_percent: Some(3.25),
            steal_percent: None,
        }),
        memory: Some(Memory {
            total_bytes: 536_870_912,
            available_bytes: 412_090_368,
            swap_total_bytes: 0,
            swap_free_bytes: 0,
        }),
        load: Some(Load { one_minute: 0.52, five_minutes: 0.2, fifteen_minutes: 0.07 }),
        uptime: Some(Uptime { boot_time_s: 1_795_228_700, uptime_s: 100 }),
        disks: Some(BTreeMap::from([("vda".into(), disk())])),
        filesystems: Some(BTreeMap::from([("/".into(), filesystem())])),
        interfaces: Some(BTreeMap::from([
            ("eth0".into(), interface()),
            ("eth1".into(), Interface::default()),
        ])),
    }
}

fn disk() -> Disk {
    Disk {
        size_bytes: 10_737_418_240,
        read_bytes: 104_857_600,
        written_bytes: 20_971_520,
        read_operations: 5_120,
        write_operations: 810,
        read_bytes_per_second: Some(4_096),
        written_bytes_per_second: None,
    }
}

fn filesystem() -> Filesystem {
    Filesystem {
        device: "/dev/vda1".into(),
        fs_type: "ext4".into(),
        total_bytes: 10_434_699_264,
        used_bytes: 1_288_490_188,
        available_bytes: 8_589_934_592,
    }
}

fn interface() -> Interface {
    Interface {
        mac: Some("52:54:00:12:34:56".into()),
        up: true,
        addresses: vec!["10.0.2.15/24".into(), "fe80::5054:ff:fe12:3456/64".into()],
        received_bytes: 40_960,
        sent_bytes: 8_192,
        received_bytes_per_second: None,
        sent_bytes_per_second: Some(128),
    }
}

fn value(plain: impl Serialize) -> Value {
    serde_json::to_value(plain).expect("plain data with strings for keys is JSON")
}

fn event(event: Event) -> Message {
    Message::ToHost(GuestMessage::Event(TimedEvent { event, timestamp: CLOCK }))
}

fn request(execute: &str, arguments: Option<Value>, id: u64) -> Message {
    Message::ToGuest(Request { execute: execute.into(), arguments, id: Some(id.into()) })
}

fn result(value: Value, id: u64) -> Message {
    reply(Outcome::Return(value), Some(id.into()))
}

fn error(class: ErrorClass, desc: &str, id: Option<Value>) -> Message {
    reply(Outcome::Error(ErrorBody { class, desc: desc.into() }), id)
}

fn reply(outcome: Outcome, id: Option<Value>) -> Message {
    Message::ToHost(GuestMessage::Reply(Reply { outcome, id }))
}
