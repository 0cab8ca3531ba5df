//! The channel over a real unix socket, with a host that behaves and one that
//! does not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use guest_protocol::message::Stage;
use serde_json::json;

use super::*;
use crate::command::policy::Policy;

fn channel(path: &Path) -> Channel {
    let identity = Identity { agent_id: "a".into(), boot_id: "b".into() };
    let transport = Transport::Listen(path.to_owned());
    let mut channel = Channel::new(transport, identity, Commands::new(Policy::default()));
    channel.bind().unwrap();
    channel
}

/// Lets the channel run while `host` does its part on another thread.
async fn with_host<T: Send + 'static>(
    channel: &mut Channel,
    host: impl FnOnce() -> T + Send + 'static,
) -> T {
    let host = tokio::task::spawn_blocking(host);
    tokio::pin!(host);
    loop {
        tokio::select! {
            done = &mut host => return done.unwrap(),
            _ = channel.converse() => {}
        }
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn line(stream: &mut UnixStream) -> Value {
    let mut text = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    serde_json::from_slice(&text).unwrap()
}

/// Says hello and confirms; the replies and the hello are read.
fn greet(stream: &mut UnixStream, session: &str) {
    let hello = line(stream);
    let arguments = json!({
        "protocols": [1], "session": session, "peer_session": hello["data"]["session"],
        "clock": {"seconds": 1, "microseconds": 0}, "heartbeat_s": 3600,
    });
    writeln!(stream, "{}", json!({"execute": "agent-hello", "arguments": arguments})).unwrap();
    assert_eq!(line(stream)["return"], json!({}));
}

#[tokio::test]
async fn a_hundred_hosts_in_a_row_are_each_told_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let mut channel = channel(&path);
    channel.publish(&Facts::default()).unwrap();
    channel.tell_stages(&[Lifecycle { stage: Stage::AgentStarted, uptime_ms: 7, detail: None }]);
    let sessions = with_host(&mut channel, move || {
        let mut sessions = std::collections::BTreeSet::new();
        for number in 0..100 {
            let mut stream = connect(&path);
            if number % 3 == 0 {
                // This one leaves in the middle of a word.
                stream.write_all(b"{\"execute\":\"guest-sh").unwrap();
                continue;
            }
            greet(&mut stream, &format!("host {number}"));
            let stage = line(&mut stream);
            assert_eq!(
                (&stage["event"], &stage["data"]["uptime_ms"]),
                (&json!("LIFECYCLE"), &json!(7))
            );
            let report = line(&mut stream);
            assert_eq!(
                (&report["data"]["seq"], &report["data"]["full"]),
                (&json!(1), &json!(true))
            );
            sessions.insert(number);
        }
        sessions
    })
    .await;
    assert_eq!(sessions.len(), 66);
}

#[tokio::test]
async fn a_host_that_never_reads_costs_little_and_gets_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let mut channel = channel(&path);
    let mut stream = with_host(&mut channel, {
        let path = path.clone();
        move || {
            let mut stream = connect(&path);
            greet(&mut stream, "deaf");
            stream
        }
    })
    .await;
    // More than the socket holds, and all of it goes unread.
    for round in 0..2000u32 {
        let mut facts = Facts::default();
        facts.os.get_or_insert_default().hostname = format!("{round}-{}", "x".repeat(1000));
        channel.publish(&facts).unwrap();
        let _ = tokio::time::timeout(Duration::from_micros(50), channel.converse()).await;
    }
    let Link::Open { session, .. } = &mut channel.link else { panic!("the channel closed") };
    assert!(session.outbox().pending().len() < 8 * 1024);
    // It reads at last: the last report is the newest state, and seq has no gap.
    with_host(&mut channel, move || {
        let mut expected = 1;
        loop {
            let message = line(&mut stream);
            if message["event"] != "REPORT" {
                continue;
            }
            assert_eq!(message["data"]["seq"], expected);
            expected += 1;
            let hostname = message["data"]["facts"]["os"]["hostname"].as_str().unwrap();
            if hostname.starts_with("1999-") {
                break;
            }
        }
        assert!(expected < 1999, "old reports were queued");
    })
    .await;
}

#[tokio::test]
async fn a_host_that_floods_is_heard_again_after_a_pause() {
    const PINGS: usize = 120_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let mut channel = channel(&path);
    // Nothing but the end of each pause wakes the channel here.
    let answers = with_host(&mut channel, move || {
        let mut stream = connect(&path);
        greet(&mut stream, "flood");
        let mut asking = stream.try_clone().unwrap();
        let asker = std::thread::spawn(move || {
            let pings = "{\"execute\":\"guest-ping\"}".repeat(1000);
            for _ in 0..PINGS / 1000 {
                asking.write_all(pings.as_bytes()).unwrap();
            }
        });
        let (mut answers, mut buffer) = (0, [0; 64 * 1024]);
        while answers < PINGS {
            let read = stream.read(&mut buffer).unwrap();
            answers += buffer[..read].iter().filter(|&&byte| byte == b'\n').count();
        }
        asker.join().unwrap();
        answers
    })
    .await;
    assert_eq!(answers, PINGS);
}

#[tokio::test]
async fn last_words_end_when_they_are_written_or_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let mut channel = channel(&path);
    channel.drain().await.unwrap();
    let mut stream = with_host(&mut channel, move || {
        let mut stream = connect(&path);
        greet(&mut stream, "host");
        stream
    })
    .await;
    channel.tell_stages(&[Lifecycle { stage: Stage::ShutdownStarted, uptime_ms: 9, detail: None }]);
    channel.drain().await.unwrap();
    drop(channel);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("shutdown-started"), "{rest}");
}
