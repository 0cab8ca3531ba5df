//! Any number may watch. One that does not read slows nobody, loses events, and
//! is told how many.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use vmm_api::client::Client;

use crate::scene::{Scene, succeeded};
use crate::soak::{self, subscribers};

/// Pauses, each followed by a resume, six events together: more than the daemon
/// keeps and the buffers between it and a stopped client hold.
const PAUSES: usize = 3_500;
/// How long a watcher may take for its next event.
const NEXT_LIMIT: Duration = Duration::from_secs(30);

/// Whatever they do then: watch and never read, ask and go, say half of what
/// they want, or nothing.
pub async fn that_connect_a_thousand_times_a_second(scene: Scene) -> Result<()> {
    soak::short(scene, subscribers::KINDS, subscribers::run).await
}

/// Three clients watch one VM; one of them is stopped by SIGSTOP.
pub async fn only_the_stopped_one_misses_events(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    scene.boot(&client, &scene.spec("web")).await?;
    let (mut first, mut second) = (Watcher::start(&scene)?, Watcher::start(&scene)?);
    let mut stopped = Watcher::start(&scene)?;
    for watcher in [&mut first, &mut second, &mut stopped] {
        watcher.next().await.context("a watcher hears nothing")?;
    }
    stopped.signal(Signal::STOP)?;

    let readers = [
        tokio::spawn(async move { first.read_to_mark().await }),
        tokio::spawn(async move { second.read_to_mark().await }),
    ];
    for _ in 0..PAUSES {
        toggle(&client).await?;
    }
    // The mark that everybody reads to: the VM ends.
    succeeded(&client, client.kill("web").await?).await?;

    let mut heard = Vec::new();
    for reader in readers {
        let read = reader.await??;
        ensure!(read.missed.is_empty(), "a reading client missed {:?}", read.missed);
        heard.push(read.sequences);
    }
    for sequences in &heard {
        ensure!(sequences.len() >= 2 * PAUSES, "only {} events were heard", sequences.len());
        ensure!(sequences.is_sorted(), "events came out of order");
    }
    // Both were started before the events began, and saw all of the rest.
    let (last, shorter) = (heard.pop().unwrap_or_default(), heard.pop().unwrap_or_default());
    let from = last.first().max(shorter.first()).copied().unwrap_or_default();
    let rest = |all: &[u64]| all.iter().copied().filter(|n| *n >= from).collect::<Vec<_>>();
    ensure!(rest(&last) == rest(&shorter), "the two did not hear the same");

    stopped.signal(Signal::CONT)?;
    let late = stopped.read_to_mark().await?;
    let missed: u64 = late.missed.iter().flatten().sum();
    ensure!(missed > 0, "nobody told the stopped client that it missed anything");
    let held = late.sequences.len() as u64;
    let all = rest(&last).len() as u64;
    ensure!(missed + held >= all, "{missed} missed and {held} heard do not make {all}");
    Ok(())
}

async fn toggle(client: &Client) -> Result<()> {
    succeeded(client, client.pause("web").await?).await?;
    succeeded(client, client.resume("web").await?).await.map(drop)
}

/// `vmmctl events web -o json`, as an operator runs it.
struct Watcher {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a watcher heard.
struct Heard {
    sequences: Vec<u64>,
    missed: Vec<Option<u64>>,
}

impl Watcher {
    fn start(scene: &Scene) -> Result<Self> {
        let mut command = scene.settings().vmmctl();
        command.args(["events", "web", "-o", "json"]);
        let mut child = Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        Ok(kill_process(pid.context("the watcher is gone")?, signal)?)
    }

    async fn next(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(NEXT_LIMIT, self.lines.next_line()).await;
        let line = line.context("no event came")??.context("the watcher ended")?;
        serde_json::from_str(&line).with_context(|| format!("not an event: {line}"))
    }

    /// Reads until the VM has stopped or failed.
    async fn read_to_mark(&mut self) -> Result<Heard> {
        let mut heard = Heard { sequences: Vec::new(), missed: Vec::new() };
        loop {
            let event = self.next().await?;
            if event["kind"] == "missed" {
                heard.missed.push(event["count"].as_u64());
                continue;
            }
            let id = event["id"].as_str().context("an event without its id")?;
            let sequence = id.rsplit('-').next().unwrap_or_default();
            heard.sequences.push(sequence.parse().with_context(|| format!("id {id}"))?);
            if event["kind"] == "state" && event["to"] == "stopped" {
                return Ok(heard);
            }
        }
    }
}
