//! A process that connects to the daemon a thousand times a second, and what it
//! does then: whoever else asks is answered all the same.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::Plan;
use crate::scene::{BLINK, Scene};
use crate::wait::until;

/// How many rounds a full run has.
pub const ROUNDS: u64 = 50 * KINDS;

/// How many ways there are to be a nuisance: a round has one of them.
pub const KINDS: u64 = 4;

/// How many connections a round makes.
const CONNECTIONS: u64 = 2_000;

/// How long the other clients may take for one answer. They are let in behind
/// those that stand in the socket's queue.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What is sent on each connection, and whether it is kept then.
const WAYS: [(&str, &[u8], bool); KINDS as usize] = [
    ("connections that watch and never read", b"GET /events HTTP/1.1\r\nhost: vmm\r\n\r\n", true),
    ("connections that ask and go", b"GET /vms HTTP/1.1\r\nhost: vmm\r\n\r\n", false),
    ("connections that say half of it", b"GET /vms HTTP/1.1\r\nho", true),
    ("connections that say nothing", b"", false),
];

/// Storms from this process; the others are processes of their own.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let client = scene.start_daemon().await?;
    client.create(&scene.spec("web")).await?;
    for round in plan.rounds.clone() {
        plan.begin(round);
        let (name, said, kept) = WAYS[usize::try_from(round - 1)? % WAYS.len()];
        let socket = scene.settings().socket();
        let began = Instant::now();
        let storm = tokio::task::spawn_blocking(move || storm(&socket, said, kept));
        let mut answers = 0;
        while !storm.is_finished() || answers == 0 {
            is_answered(&scene).await.context(name)?;
            answers += 1;
        }
        let held = storm.await??;
        plan.add(name, CONNECTIONS);
        plan.add("ms of storms", u64::try_from(began.elapsed().as_millis())?);
        // And while all of those that were let in are still there.
        hears_of_changes(&scene, round).await.context(name)?;
        plan.add("answers to others meanwhile", answers);
        drop(held);
        gone(&scene.settings().socket()).await.context(name)?;
    }
    let refused = metric(&scene.settings().socket(), "infinibay_api_refused_connections_total")?;
    ensure!(refused > 0, "nobody was refused");
    plan.add("connections refused", refused);
    Ok(())
}

/// Connects as fast as the daemon lets it.
fn storm(socket: &Path, said: &[u8], kept: bool) -> Result<Vec<UnixStream>> {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = UnixStream::connect(socket).context("the daemon lets nobody in")?;
        // One that was refused meanwhile is closed already.
        let sent = stream.write_all(said);
        if kept && sent.is_ok() {
            held.push(stream);
        }
    }
    Ok(held)
}

/// Somebody else asks.
async fn is_answered(scene: &Scene) -> Result<()> {
    let asked = tokio::time::timeout(ANSWER_LIMIT, scene.vmmctl(&["list", "-o", "json"])).await;
    let output = asked.context("another client is not answered")??;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "another client is not answered: {error}");
    ensure!(String::from_utf8_lossy(&output.stdout).contains("web"), "not what was asked for");
    Ok(())
}

/// Somebody else watches, and a third makes a change.
async fn hears_of_changes(scene: &Scene, round: u64) -> Result<()> {
    let mut command = scene.settings().vmmctl();
    command.args(["events", "-o", "json"]);
    let mut watcher = Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(watcher.stdout.take().context("no output")?).lines();
    let name = format!("vm-{round}");
    let spec = format!("name = \"{name}\"\nvcpus = 1\nmemory_mib = 64\nkernel = \"/bin/sh\"\n");
    let file = scene.folder().join("spec.toml");
    std::fs::write(&file, spec)?;
    let file = file.display().to_string();
    // Made and deleted until the watcher, who may come late, hears of it.
    let heard = async {
        loop {
            let made = scene.vmmctl(&["create", "-f", &file]).await?;
            let error = String::from_utf8_lossy(&made.stderr).into_owned();
            ensure!(made.status.success(), "{error}");
            let deleted = scene.vmmctl(&["delete", "--yes", &name]).await?;
            ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
            if let Ok(line) = tokio::time::timeout(Duration::from_secs(1), lines.next_line()).await
            {
                let line = line?.context("the watcher ended")?;
                ensure!(line.contains("\"kind\""), "no event: {line}");
                return Ok(());
            }
        }
    };
    tokio::time::timeout(ANSWER_LIMIT, heard).await.context("a watcher hears nothing")?
}

/// Waits until the places of the storm's connections are free again.
async fn gone(socket: &Path) -> Result<()> {
    let socket = PathBuf::from(socket);
    until("the end of the storm's connections", BLINK, || async {
        // This process may be refused until then.
        let connections = metric(&socket, "infinibay_api_connections").ok();
        Ok(connections.filter(|connections| *connections <= 2))
    })
    .await
    .map(drop)
}

/// One number of `/metrics`.
fn metric(socket: &Path, name: &str) -> Result<u64> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: vmm\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}: {answer}"))?.parse()?)
}
