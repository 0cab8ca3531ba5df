//! The hub against guests on real sockets.

use std::time::Duration;

use guest_protocol::message::{ErrorBody, ErrorClass, Event, Outcome, Stage};
use serde_json::{Value, json};
use vmm_api::event::EventKind;
use vmm_api::guest::{AgentState, ChannelDrops, ChannelPauses};

use super::fake::{CALM, Host, UNLIMITED, hello, soon, wire};
use super::*;
use crate::events::{EventBus, Next};
use crate::guest::budget::{Limits, Rate};
use crate::guest::channel::Pace;

const LONG: Duration = Duration::from_secs(20);
const CONNECTED: EventKind = EventKind::Agent { agent: AgentState::Connected };
const ABSENT: EventKind = EventKind::Agent { agent: AgentState::Absent };
const SILENT: EventKind = EventKind::Agent { agent: AgentState::Silent };

#[tokio::test]
async fn host_first_the_guest_is_confirmed_and_known() {
    let host = Host::new(CALM);
    let (vm, _port) = host.connected().await;
    let guest = host.hub.guest(vm.id);
    assert_eq!(guest.summary.agent, AgentState::Connected);
    assert_eq!(guest.agent_version.as_deref(), Some("infiniservice/0.1.0"));
    assert_eq!(guest.agent_id.as_deref(), Some("an-agent"));
    assert_eq!(guest.capabilities, ["guest-ping", "guest-shutdown"]);
    assert!(guest.clock_offset_s.unwrap().abs() < 60.0);
    assert_eq!(guest.dropped, ChannelDrops::default());
}

#[tokio::test]
async fn guest_first_the_host_says_its_own_hello_all_the_same() {
    let host = Host::new(CALM);
    let mut vm = host.vm();
    let mut port = vm.accept().await;
    port.event(Event::Hello(hello("mine"))).await;
    assert_eq!(vm.event().await, CONNECTED);
    assert_eq!(port.host_hello().await.peer_session, None);
    assert_eq!(port.host_hello().await.peer_session.as_deref(), Some("mine"));
}

#[tokio::test]
async fn an_agent_that_restarts_is_confirmed_anew_and_a_new_boot_clears_the_stages() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    port.reach(Stage::BootComplete, 5).await;
    vm.event().await;
    port.event(Event::Hello(hello("second"))).await;
    assert_eq!(port.host_hello().await.peer_session.as_deref(), Some("second"));
    assert_eq!(host.hub.summary(vm.id).stage, Some(Stage::BootComplete));
    let rebooted = guest_protocol::message::Hello { boot_id: "b".to_owned(), ..hello("third") };
    port.event(Event::Hello(rebooted)).await;
    assert_eq!(port.host_hello().await.peer_session.as_deref(), Some("third"));
    assert_eq!(host.hub.summary(vm.id).stage, None);
}

#[tokio::test]
async fn a_daemon_that_restarts_has_another_session_and_what_is_attached_again_is_remembered() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    port.report(1, true, json!({"os": {"hostname": "a"}})).await;
    assert!(matches!(vm.event().await, EventKind::Facts { .. }));
    soon(host.hub.detach(vm.id)).await;
    assert_eq!(vm.event().await, ABSENT);
    assert!(port.request_or_end().await.is_none());
    assert_eq!(host.hub.guest(vm.id).facts.os.unwrap().hostname, "a");

    host.attach(vm.id, false);
    let mut again = vm.accept().await;
    again.shake_hands("session").await;
    assert_eq!(vm.event().await, CONNECTED);
    assert_ne!(again.host_session, port.host_session);
    assert_eq!(host.hub.guest(vm.id).facts.os.unwrap().hostname, "a");

    // Another run of the VM: nothing of the former one is left.
    host.attach(vm.id, true);
    assert_eq!(vm.event().await, ABSENT);
    assert!(host.hub.guest(vm.id).facts.os.is_none());
    vm.accept().await.shake_hands("other").await;
    host.hub.forget(vm.id);
    assert_eq!(host.hub.guest(vm.id), Guest::default());
    soon(host.hub.close()).await;
}

#[tokio::test]
async fn a_hundred_times_closed_and_opened() {
    let host = Host::new(CALM);
    let mut vm = host.vm();
    for round in 0..100 {
        let mut port = vm.accept().await;
        port.shake_hands(&format!("session {round}")).await;
        assert!(vm.settle(&mut port).await.len() <= 1);
    }
    let mut port = vm.accept().await;
    port.shake_hands("last").await;
    for _ in 0..100 {
        host.hub.port(vm.id, false);
        assert_eq!(host.hub.summary(vm.id).agent, AgentState::Absent);
        host.hub.port(vm.id, true);
        // The host begins anew, so that nothing said before is obeyed.
        port.shake_hands("last").await;
        while vm.event().await != CONNECTED {}
    }
    assert_eq!(host.hub.guest(vm.id).dropped, ChannelDrops::default());
}

#[tokio::test]
async fn garbage_is_counted_and_costs_nothing_else() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    port.send(b"login: \x1b[2J\n").await;
    port.send(b"\xff{\"event\": \"HEART\n").await;
    port.send(&[b"{\"a\":".repeat(10_000), b"\n".to_vec()].concat()).await;
    port.send(
        &[b"{\"long\":\"".to_vec(), vec![b'x'; 3 * MAX_OBJECT_BYTES], b"\n".to_vec()].concat(),
    )
    .await;
    port.send(b"{\"event\": \"NEWS\"}\n{\"return\": 1, \"error\": 2}\n{\"a\": 1e}\n").await;
    port.report(1, true, json!(["no", "object"])).await;
    assert_eq!(vm.settle(&mut port).await, []);
    let dropped = host.hub.guest(vm.id).dropped;
    assert!(dropped.garbage_bytes > 0);
    assert_eq!((dropped.too_long, dropped.too_deep, dropped.malformed), (1, 1, 4));
    assert_eq!(dropped.facts_over_limit, 0);
    assert_eq!(host.hub.summary(vm.id).agent, AgentState::Connected);
}

#[tokio::test]
async fn what_a_guest_calls_itself_is_only_data() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    let hostname = "\u{1b}]0;owned\u{7}\u{202e}</script>\0";
    port.report(1, true, json!({"os": {"hostname": hostname}})).await;
    vm.event().await;
    assert_eq!(host.hub.guest(vm.id).facts.os.unwrap().hostname, hostname);
}

#[tokio::test]
async fn a_hello_without_measure_or_common_protocol_is_refused() {
    let host = Host::new(CALM);
    let mut vm = host.vm();
    let mut port = vm.accept().await;
    let long = "x".repeat(300);
    port.event(Event::Hello(hello(&long))).await;
    port.event(Event::Hello(hello(""))).await;
    let many = vec!["guest-ping".to_owned(); 600];
    let many = guest_protocol::message::Hello { capabilities: many, ..hello("a") };
    port.event(Event::Hello(many)).await;
    let future = guest_protocol::message::Hello { protocols: vec![99], ..hello("a") };
    port.event(Event::Hello(future)).await;
    assert_eq!(vm.settle(&mut port).await, []);
    assert_eq!(host.hub.summary(vm.id).agent, AgentState::Absent);
    assert_eq!(host.hub.guest(vm.id).dropped.malformed, 4);
}

#[tokio::test]
async fn a_gap_in_the_reports_makes_the_host_ask_once() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    port.report(1, true, json!({"cpu": {"online": 1}})).await;
    port.report(2, false, json!({"cpu": {"online": 2}})).await;
    assert_eq!(vm.settle(&mut port).await.len(), 2);
    // 3 is lost, and so is what 4 to 9 would have been merged into.
    for seq in 4..10 {
        port.report(seq, false, json!({"cpu": {"online": seq}})).await;
    }
    assert_eq!(vm.settle(&mut port).await, []);
    assert_eq!(port.request().await.execute, "agent-report");
    assert_eq!(host.hub.guest(vm.id).facts.cpu.unwrap().online, 2);
    port.report(10, true, json!({"cpu": {"online": 10}})).await;
    port.report(11, false, json!({"cpu": {"model": "m"}})).await;
    assert_eq!(vm.settle(&mut port).await.len(), 2);
    let cpu = host.hub.guest(vm.id).facts.cpu.unwrap();
    assert_eq!((cpu.online, cpu.model.as_str()), (10, "m"));
    // Nothing else was asked: the next thing from the host is this command.
    let (asked, ()) = tokio::join!(host.hub.command(vm.id, "guest-ping", json!({}), LONG), async {
        let request = port.request().await;
        assert_eq!(request.execute, "guest-ping");
        port.answer(&request, Outcome::Return(json!({}))).await;
    });
    asked.unwrap();
}

#[tokio::test]
async fn facts_beyond_the_limits_are_discarded_counted_and_asked_for() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    port.report(1, true, json!({"cpu": {"online": 1}, "a": "x".repeat(600_000)})).await;
    port.report(2, false, json!({"b": "x".repeat(600_000)})).await;
    assert_eq!(vm.settle(&mut port).await.len(), 1);
    assert_eq!(port.request().await.execute, "agent-report");
    let guest = host.hub.guest(vm.id);
    assert_eq!(guest.dropped.facts_over_limit, 1);
    assert_eq!(guest.facts.cpu.unwrap().online, 1);
}

#[tokio::test]
async fn a_guest_that_floods_is_throttled_alone() {
    let messages = Rate { per_second: 1.0, burst: 100.0 };
    let host = Host::new(Pace { limits: Limits { messages, ..UNLIMITED }, ..CALM });
    let mut all = host.events.subscribe(None);
    let (mut vm, mut port) = host.connected().await;
    let (flooder, mut flood) = host.connected().await;
    let flooding = tokio::spawn(async move {
        // Until the test ends: the hub does not read, so this blocks.
        for uptime_ms in 0.. {
            flood.reach(Stage::Resume, uptime_ms).await;
        }
    });
    // The flood is in full swing once the whole burst is spent.
    let mut floods = 0;
    let mut count = |next: Next| match next {
        Next::Event(event) if event.vm == Some(flooder.id) => floods += 1,
        Next::Event(_) => {}
        other => panic!("{other:?}"),
    };
    while host.hub.guest(flooder.id).channel.pauses.messages == 0 {
        count(soon(all.next()).await);
    }
    for uptime_ms in 0..50 {
        port.reach(Stage::Resume, uptime_ms).await;
        assert!(matches!(vm.event().await, EventKind::Lifecycle { .. }));
    }
    flooding.abort();
    while let Some(next) = futures_util::FutureExt::now_or_never(all.next()) {
        count(next);
    }
    // One a second beyond the burst, and this takes no minute.
    assert!((90..160).contains(&floods), "{floods}");
    assert_eq!(host.hub.guest(vm.id).channel.pauses, ChannelPauses::default());
}

#[tokio::test]
async fn a_guest_that_never_reads_is_still_heard() {
    let host = Host::new(CALM);
    let mut vm = host.vm();
    let mut port = vm.accept().await;
    // Each hello asks for a reply of some 200 bytes; the socket holds less.
    for round in 0..5000 {
        port.event(Event::Hello(hello(&round.to_string()))).await;
    }
    assert_eq!(vm.settle(&mut port).await, [CONNECTED]);
    // A command waits for its turn no longer than its deadline.
    let asked = host.hub.command(vm.id, "guest-ping", json!({}), Duration::from_millis(20)).await;
    assert!(matches!(asked, Err(CommandError::TimedOut(_))));
    // The replies that were owed became one: the last session's.
    let mut replies = 0;
    while port.host_hello().await.peer_session.as_deref() != Some("4999") {
        replies += 1;
    }
    assert!(replies < 5000);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_how_much_it_missed() {
    let host = Host::with_events(CALM, EventBus::new(8));
    let (mut vm, mut port) = host.connected().await;
    let mut slow = host.events.subscribe(None);
    for uptime_ms in 0..20 {
        port.reach(Stage::Resume, uptime_ms).await;
        vm.event().await;
    }
    assert!(matches!(slow.next().await, Next::Missed(Some(12))));
    assert!(matches!(slow.next().await, Next::Event(_)));
}

#[tokio::test]
async fn commands_are_answered_refused_or_given_up() {
    let host = Host::new(CALM);
    let (vm, mut port) = host.connected().await;
    let ping = |deadline| host.hub.command(vm.id, "guest-ping", json!({"a": 1}), deadline);

    let given_up = ping(Duration::from_millis(20)).await;
    assert!(matches!(given_up, Err(CommandError::TimedOut(_))));
    let stale = port.request().await;
    let (answered, ()) = tokio::join!(ping(LONG), async {
        let request = port.request().await;
        assert_eq!(request.arguments, Some(json!({"a": 1})));
        assert_ne!(request.id, stale.id);
        port.answer(&stale, Outcome::Return(json!("too late"))).await;
        port.answer(&request, Outcome::Return(json!("pong"))).await;
    });
    assert_eq!(answered.unwrap(), json!("pong"));

    for (class, desc) in
        [(ErrorClass::GenericError, "no\u{1b}[2J"), (ErrorClass::CommandNotFound, "")]
    {
        let (refused, ()) = tokio::join!(ping(LONG), async {
            let request = port.request().await;
            port.refuse(&request, ErrorBody { class, desc: desc.to_owned() }).await;
        });
        match (class, refused) {
            (ErrorClass::GenericError, Err(CommandError::Refused(text))) => {
                assert_eq!(text, "no\u{fffd}[2J");
            }
            (ErrorClass::CommandNotFound, Err(CommandError::NotAllowed(name))) => {
                assert_eq!(name, "guest-ping");
            }
            (_, other) => panic!("{other:?}"),
        }
    }

    let exec = host.hub.command(vm.id, "guest-exec", json!({}), LONG).await;
    assert!(matches!(exec, Err(CommandError::NotAllowed(_))));
    let long = json!("x".repeat(MAX_OBJECT_BYTES));
    let long = host.hub.command(vm.id, "guest-ping", long, LONG).await;
    assert!(matches!(long, Err(CommandError::TooLong)));
    let nobody = host.hub.command(Uuid::new_v4(), "guest-ping", json!({}), LONG).await;
    assert!(matches!(nobody, Err(CommandError::NotConnected)));
}

#[tokio::test]
async fn what_waits_for_a_guest_that_goes_is_told_so() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    // The port closes, the guest resets, the agent restarts, the socket goes.
    for way in 0..4 {
        let asked = host.hub.command(vm.id, "guest-ping", json!({}), LONG);
        let (asked, ()) = tokio::join!(asked, async {
            port.request().await;
            match way {
                0 => host.hub.port(vm.id, false),
                1 => host.hub.reset(vm.id),
                2 => port.event(Event::Hello(hello("new"))).await,
                _ => {
                    port = {
                        let (other, _) = tokio::net::UnixStream::pair().unwrap();
                        drop(std::mem::replace(&mut port.stream, other));
                        vm.accept().await
                    }
                }
            }
        });
        assert!(matches!(asked, Err(CommandError::NotConnected)), "way {way}: {asked:?}");
        host.hub.port(vm.id, true);
        if way == 2 {
            port.host_hello().await;
            continue;
        }
        port.shake_hands("session").await;
        vm.settle(&mut port).await;
    }
}

#[tokio::test]
async fn a_shutdown_is_obeyed_in_silence_or_refused() {
    let host = Host::new(CALM);
    let (vm, mut port) = host.connected().await;
    let (obeyed, ()) = tokio::join!(host.hub.shutdown(vm.id, "powerdown", LONG), async {
        let request = port.request().await;
        assert_eq!(request.execute, "guest-shutdown");
        assert_eq!(request.arguments, Some(json!({"mode": "powerdown"})));
    });
    obeyed.unwrap();
    let (refused, ()) = tokio::join!(host.hub.shutdown(vm.id, "halt", LONG), async {
        let request = port.request().await;
        let desc = "busy".to_owned();
        port.refuse(&request, ErrorBody { class: ErrorClass::GenericError, desc }).await;
    });
    assert!(matches!(refused, Err(CommandError::Refused(_))));
}

#[tokio::test]
async fn silence_is_noticed_and_heartbeats_go_both_ways() {
    let host = Host::new(Pace { heartbeat: Duration::from_millis(20), ..CALM });
    let (mut vm, mut port) = host.connected().await;
    assert_eq!(vm.event().await, SILENT);
    assert!(host.hub.summary(vm.id).age_s.unwrap() >= 0.06);
    for seq in 1..4 {
        let request = port.request().await;
        assert_eq!(request.execute, "agent-heartbeat");
        let arguments = request.arguments.unwrap();
        assert_eq!(arguments["seq"], seq);
        assert_eq!(arguments["session"], Value::from(port.host_session.clone()));
    }
    port.beat("session").await;
    assert_eq!(vm.event().await, CONNECTED);
}

#[tokio::test]
async fn nothing_is_written_to_a_closed_port_and_what_comes_from_it_is_stale() {
    let host = Host::new(Pace { heartbeat: Duration::from_millis(20), ..CALM });
    let (mut vm, mut port) = host.connected().await;
    host.hub.port(vm.id, false);
    while vm.event().await != ABSENT {}
    port.beat("session").await;
    assert_eq!(vm.settle(&mut port).await, []);
    // What was written before the close comes out at once, and then nothing:
    // several heartbeats long.
    let quiet = async { while port.request().await.execute == "agent-heartbeat" {} };
    assert!(tokio::time::timeout(Duration::from_millis(100), quiet).await.is_err());
    let quiet = tokio::time::timeout(Duration::from_millis(100), port.request()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    host.hub.port(vm.id, true);
    assert_eq!(port.request().await.execute, "agent-hello");
}

#[tokio::test]
async fn an_unknown_session_is_asked_for_its_hello() {
    let host = Host::new(CALM);
    let vm = host.vm();
    let mut port = vm.accept().await;
    let first = port.host_hello().await;
    port.beat("from before the daemon's restart").await;
    port.beat("from before the daemon's restart").await;
    let second = port.host_hello().await;
    assert_ne!(first.session, second.session);
    port.event(Event::Hello(hello("session"))).await;
    assert_eq!(port.host_hello().await.peer_session.as_deref(), Some("session"));
}

#[tokio::test]
async fn a_reset_voids_the_boot() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    port.reach(Stage::BootComplete, 5).await;
    vm.event().await;
    host.hub.reset(vm.id);
    assert_eq!(host.hub.guest(vm.id).boot, []);
    assert_eq!(vm.event().await, ABSENT);
    port.shake_hands("after").await;
    assert_eq!(vm.event().await, CONNECTED);
}

#[tokio::test]
async fn detach_and_close_wait_until_the_tasks_are_gone() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    let (_other, mut other_port) = host.connected().await;
    soon(host.hub.detach(vm.id)).await;
    assert_eq!(host.hub.shared.tasks.len(), 1);
    assert!(port.request_or_end().await.is_none());
    assert_eq!(vm.event().await, ABSENT);
    soon(host.hub.close()).await;
    assert!(host.hub.shared.tasks.is_empty());
    assert!(other_port.request_or_end().await.is_none());
}

#[tokio::test]
async fn any_bytes_in_any_pieces_leave_the_channel_working() {
    let host = Host::new(CALM);
    let (mut vm, mut port) = host.connected().await;
    // Every prefix of a message, cut off by the byte that resets.
    let whole = wire(Event::Hello(hello("cut")));
    for length in 0..whole.len() {
        port.send(&whole[..length]).await;
        port.send(b"\xff").await;
    }
    assert_eq!(vm.settle(&mut port).await, []);
    assert_eq!(host.hub.summary(vm.id).agent, AgentState::Connected);
}
