//! Each way in which a guest may try to cost the host more than its share, in
//! its fast form, beside a guest that is well and goes on being heard.
//! `tests/e2e` and `cargo xtask soak` have the same with real machines.

use std::time::Duration;

use guest_protocol::limits::MAX_FACTS_BYTES;
use guest_protocol::message::{Event, Hello, Stage};
use serde_json::{Map, Value, json};
use vmm_api::event::EventKind;
use vmm_api::guest::{AgentState, ChannelDrops, ChannelPauses};

use super::fake::{CALM, Host, Port, UNLIMITED, Vm, hello, soon, wire};
use crate::events::{EventBus, Next};
use crate::guest::budget::{LIMITS, Limits, Rate};
use crate::guest::channel::Pace;

/// The budgets of every day.
const BUDGETED: Pace = Pace { limits: LIMITS, ..CALM };

const MIB: usize = 1024 * 1024;

/// A guest that is well.
struct Neighbour {
    vm: Vm,
    port: Port,
    reports: u64,
}

impl Neighbour {
    async fn new(host: &Host) -> Self {
        let (vm, port) = host.connected().await;
        Self { vm, port, reports: 0 }
    }

    /// It reports, and is heard.
    async fn is_heard(&mut self) {
        self.reports += 1;
        let facts = json!({"uptime": {"uptime_s": self.reports, "boot_time_s": 1}});
        self.port.report(self.reports, self.reports == 1, facts).await;
        while !matches!(self.vm.event().await, EventKind::Facts { .. }) {}
    }

    /// Nothing that the other did fell back on it.
    fn lost_nothing(&self, host: &Host) {
        let guest = host.hub.guest(self.vm.id);
        assert_eq!(guest.summary.agent, AgentState::Connected);
        assert_eq!(guest.facts.uptime.unwrap().uptime_s, self.reports);
        assert_eq!(guest.dropped, ChannelDrops::default());
        assert_eq!(guest.channel.pauses, ChannelPauses::default());
    }
}

/// Sends for ever, as fast as the host takes it.
fn keep_sending(
    mut port: Port,
    mut next: impl FnMut() -> Vec<u8> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            // Until the host is so far behind that the test has ended.
            if tokio::io::AsyncWriteExt::write_all(&mut port.stream, &next()).await.is_err() {
                return;
            }
        }
    })
}

/// Waits for what the counters of a guest tell, and has the neighbour heard
/// meanwhile.
async fn until(host: &Host, vm: &Vm, near: &mut Neighbour, seen: fn(&super::Guest) -> bool) {
    // Seldom enough for its own budget.
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    soon(async {
        while !seen(&host.hub.guest(vm.id)) {
            near.is_heard().await;
            looks.tick().await;
        }
    })
    .await;
    // And once more while it is as it is.
    near.is_heard().await;
    near.lost_nothing(host);
}

/// Bytes that look random, the same for the same seed, in lines of some
/// length.
fn garbage(mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MIB);
    while bytes.len() < MIB {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes
}

#[tokio::test]
async fn a_hundred_megabytes_of_garbage_cost_only_themselves() {
    let host = Host::new(CALM);
    let mut near = Neighbour::new(&host).await;
    let (mut vm, mut port) = host.connected().await;
    let seed = u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap());
    println!("seed {seed}");
    let garbage = garbage(seed);
    for _ in 0..100 {
        port.send(&garbage).await;
        near.is_heard().await;
    }
    // What is open is dropped, and the agent is heard again.
    port.send(b"\n\xff").await;
    vm.settle(&mut port).await;
    near.lost_nothing(&host);
    let guest = host.hub.guest(vm.id);
    assert_eq!(guest.summary.agent, AgentState::Connected);
    assert!(guest.dropped.garbage_bytes > 90 * MIB as u64, "{:?}", guest.dropped);
    assert!(guest.channel.received_bytes > 100 * MIB as u64, "{:?}", guest.channel);
}

#[tokio::test]
async fn garbage_without_end_is_read_no_faster_than_the_budget() {
    let host = Host::new(BUDGETED);
    let mut near = Neighbour::new(&host).await;
    let (vm, port) = host.connected().await;
    let bytes = garbage(1);
    let sending = keep_sending(port, move || bytes.clone());
    until(&host, &vm, &mut near, |guest| guest.channel.pauses.bytes >= 3).await;
    let channel = host.hub.guest(vm.id).channel;
    assert!(channel.paused_s > 0.0);
    sending.abort();
}

#[tokio::test]
async fn ten_thousand_messages_a_second_are_read_no_faster_than_the_budget() {
    let host = Host::new(BUDGETED);
    let mut near = Neighbour::new(&host).await;
    let (vm, port) = host.connected().await;
    let sending = keep_sending(port, || b"{\"event\":\"FLOOD\",\"data\":{}}\n".repeat(100));
    until(&host, &vm, &mut near, |guest| guest.channel.pauses.messages >= 3).await;
    let guest = host.hub.guest(vm.id);
    assert!(guest.channel.received_messages >= 1000, "{:?}", guest.channel);
    assert_eq!(guest.channel.received_messages - 1, guest.dropped.malformed);
    sending.abort();
}

#[tokio::test]
async fn a_hello_each_millisecond_is_answered_at_the_budgets_pace() {
    let host = Host::new(BUDGETED);
    let mut near = Neighbour::new(&host).await;
    let (mut vm, port) = host.connected().await;
    let mut session = 0;
    let sending = keep_sending(port, move || {
        session += 1;
        wire(Event::Hello(hello(&session.to_string())))
    });
    until(&host, &vm, &mut near, |guest| guest.channel.pauses.hellos >= 2).await;
    let guest = host.hub.guest(vm.id);
    // The burst, and one for each pause that has ended.
    let most = 20 + guest.channel.pauses.hellos + 1;
    assert!(guest.channel.hellos <= most, "{:?}", guest.channel);
    assert_eq!(guest.summary.agent, AgentState::Connected);
    sending.abort();
    // Nothing of it is news.
    assert!(futures_util::FutureExt::now_or_never(vm.told.next()).is_none());
}

#[tokio::test]
async fn facts_that_grow_without_end_stay_within_their_limits() {
    let host = Host::new(CALM);
    let mut near = Neighbour::new(&host).await;
    let (mut vm, mut port) = host.connected().await;
    for seq in 1..=40 {
        let more: Map<String, Value> =
            (0..500).map(|key| (format!("{seq} {key}"), json!({"a": "x".repeat(100)}))).collect();
        port.report(seq, seq == 1, Value::Object(more)).await;
        vm.settle(&mut port).await;
        near.is_heard().await;
    }
    let dropped = host.hub.guest(vm.id).dropped;
    // 8 times 500 containers fit. After the first that does not, nothing may
    // be merged until everything is told anew.
    assert_eq!((dropped.facts_over_limit, dropped.out_of_sequence), (1, 32), "{dropped:?}");
    assert_eq!(port.request().await.execute, "agent-report");
    near.lost_nothing(&host);
}

#[tokio::test]
async fn reports_full_of_values_are_read_no_faster_than_the_budget() {
    let host = Host::new(BUDGETED);
    let mut near = Neighbour::new(&host).await;
    let (vm, port) = host.connected().await;
    let mut seq = 0;
    let sending = keep_sending(port, move || {
        seq += 1;
        let facts = json!({"a": vec![seq; 30_000]});
        wire(Event::Report(guest_protocol::message::Report { seq, full: true, facts }))
    });
    until(&host, &vm, &mut near, |guest| guest.channel.pauses.values >= 1).await;
    sending.abort();
}

#[tokio::test]
async fn deep_and_wide_json_is_counted_and_never_parsed() {
    let host = Host::new(CALM);
    let mut near = Neighbour::new(&host).await;
    let (mut vm, mut port) = host.connected().await;
    let report = |inner: String| {
        let head = "{\"event\":\"REPORT\",\"data\":{\"seq\":1,\"full\":true,\"facts\":{\"a\":[";
        let tail = "]}},\"timestamp\":{\"seconds\":1,\"microseconds\":0}}\n";
        (head.to_owned() + &inner + tail).into_bytes()
    };
    let elements = |element: &str| {
        let count = (MAX_FACTS_BYTES - 200) / (element.len() + 1);
        report(vec![element; count].join(","))
    };
    for wide in ["0", "{}", "[]", "\"\"", "{\"\":0}", "[[[[0]]]]", "{\"\":{\"\":{\"\":0}}}"] {
        port.send(&elements(wide)).await;
        near.is_heard().await;
    }
    for deep in ["[", "{\"\":", "[{\"\":"] {
        port.send(&report(deep.repeat(100_000 / deep.len()))).await;
        near.is_heard().await;
    }
    vm.settle(&mut port).await;
    let guest = host.hub.guest(vm.id);
    assert_eq!((guest.dropped.too_wide, guest.dropped.too_deep), (7, 3), "{:?}", guest.dropped);
    assert_eq!(guest.facts_at, None);
    near.lost_nothing(&host);
}

#[tokio::test]
async fn a_port_that_opens_and_closes_all_the_time_is_told_now_and_then() {
    let changes = Rate { per_second: 10.0, burst: 10.0 };
    let heartbeat = Duration::from_millis(200);
    let host = Host::new(Pace { heartbeat, limits: Limits { changes, ..UNLIMITED }, ..CALM });
    let mut near = Neighbour::new(&host).await;
    let (mut vm, mut port) = host.connected().await;
    for round in 0..300 {
        host.hub.port(vm.id, false);
        host.hub.port(vm.id, true);
        // Until then it may speak as the one of before.
        while port.request().await.execute != "agent-hello" {}
        port.event(Event::Hello(hello(&round.to_string()))).await;
        loop {
            let request = port.request().await;
            let confirmed =
                request.arguments.is_some_and(|said| said["peer_session"] != json!(null));
            if confirmed && request.execute == "agent-hello" {
                break;
            }
        }
    }
    host.hub.port(vm.id, false);
    near.is_heard().await;
    let channel = host.hub.guest(vm.id).channel;
    assert_eq!(channel.port_opens, 300);
    // How it is in the end is told when the budget allows it.
    let mut told = Vec::new();
    loop {
        told.push(vm.event().await);
        let last = told.last() == Some(&EventKind::Agent { agent: AgentState::Absent });
        if last && futures_util::FutureExt::now_or_never(vm.told.next()).is_none() {
            break;
        }
    }
    let withheld = host.hub.guest(vm.id).channel.withheld_changes;
    assert!(withheld + told.len() as u64 <= 601, "{withheld} and {}", told.len());
    assert!(withheld > 0);
}

#[tokio::test]
async fn a_guest_that_floods_leaves_the_others_events_in_the_ring() {
    let events = EventBus::new(512);
    let host = Host::with_events(BUDGETED, events.clone());
    let mut near = Neighbour::new(&host).await;
    let (vm, port) = host.connected().await;
    let place = events.subscribe(None).place();
    near.is_heard().await;
    let mut uptime_ms = 0;
    let sending = keep_sending(port, move || {
        uptime_ms += 1;
        let lifecycle =
            guest_protocol::message::Lifecycle { stage: Stage::Resume, uptime_ms, detail: None };
        wire(Event::Lifecycle(lifecycle))
    });
    soon(async {
        while host.hub.guest(vm.id).channel.pauses.events < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    sending.abort();
    // Who was away for all of it misses nothing.
    let mut back = events.subscribe(Some(&place)).only(near.vm.id);
    assert!(matches!(soon(back.next()).await, Next::Event(_)));
    near.is_heard().await;
    near.lost_nothing(&host);
}

#[tokio::test]
async fn long_events_do_not_fill_the_ring_either() {
    let host = Host::new(BUDGETED);
    let mut near = Neighbour::new(&host).await;
    let (vm, port) = host.connected().await;
    let mut seq = 0;
    let sending = keep_sending(port, move || {
        seq += 1;
        let facts = json!({"a": "x".repeat(900_000), "b": seq});
        wire(Event::Report(guest_protocol::message::Report { seq, full: true, facts }))
    });
    until(&host, &vm, &mut near, |guest| guest.channel.pauses.event_bytes >= 1).await;
    sending.abort();
}

#[tokio::test]
async fn lines_of_the_log_that_a_guest_causes_are_budgeted() {
    let log_lines = Rate { per_second: 0.001, burst: 5.0 };
    let host = Host::new(Pace { limits: Limits { log_lines, ..UNLIMITED }, ..CALM });
    let mut near = Neighbour::new(&host).await;
    let (mut vm, mut port) = host.connected().await;
    for round in 0..1000 {
        let foreign = Hello { protocols: vec![99], ..hello(&round.to_string()) };
        port.event(Event::Hello(foreign)).await;
    }
    vm.settle(&mut port).await;
    let guest = host.hub.guest(vm.id);
    assert_eq!(guest.dropped.malformed, 1000);
    assert_eq!(guest.channel.withheld_log_lines, 995);
    near.is_heard().await;
}
