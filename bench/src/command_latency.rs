//! `guest-ping` round trips from a native client: over a unix socket with client
//! and agents pinned to one processor, beside qemu-ga and a raw echo; and over
//! virtio-serial to a guest, beside qemu-ga in the same guest.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use lab::results::{self, Table};
use serde_json::json;

use crate::guest::Bench;
use crate::guest_wire::Client;
use crate::peers::{self, Peer};
use crate::samples::{Samples, percentile_us};

/// Rounds of echo, qemu-ga and ours in turn.
const ROUNDS: usize = 9;
/// Round trips in each round of each.
const ROUND_TRIPS: usize = 20_000;
/// Round trips before each round that are not counted.
const WARM_UP: usize = 1_000;

const PING: &[u8] = b"{\"execute\":\"guest-ping\"}\n";

/// Round trips in each round in a guest, whose processor may be emulated.
const GUEST_ROUND_TRIPS: usize = 2_000;

/// Measures and publishes.
pub fn run(daemon: &Path, agent: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    // First, because pinning cannot be undone for the guest's threads.
    let in_guest = in_guest(&Bench::prepare(daemon, agent, folder.path())?)?;
    let pinned = pinned(agent, folder.path())?;
    publish(&pinned, &in_guest)
}

/// qemu-ga and ours in one guest, in turn.
fn in_guest(bench: &Bench) -> anyhow::Result<[Figures; 2]> {
    let guest = bench.boot("")?;
    let mut figures: [Figures; 2] = Default::default();
    let mut ours = open_session(&guest.ours)?;
    let mut qemu_ga = Client::connect(&guest.qemu_ga)?;
    qemu_ga.send(&json!({"execute": "guest-sync", "arguments": {"id": 1}, "id": "up"}))?;
    qemu_ga.wait_for(|message| message["id"] == "up")?;
    for _ in 0..ROUNDS {
        let [of_qemu_ga, of_ours] = &mut figures;
        of_qemu_ga.round(&mut qemu_ga, GUEST_ROUND_TRIPS)?;
        of_ours.round(&mut ours, GUEST_ROUND_TRIPS)?;
    }
    Ok(figures)
}

/// A raw echo, qemu-ga and ours on one processor, in turn.
fn pinned(agent: &Path, folder: &Path) -> anyhow::Result<[Figures; 4]> {
    peers::pin_to_one_cpu()?;
    let at = |name: &str| folder.join(name);

    let echo = echo(&at("echo"), &[])?;
    let epoll = self::echo(&at("epoll"), &["--epoll"])?;

    let mut command = Command::new("qemu-ga");
    command.args(["-m", "unix-listen", "-p"]).arg(at("qga"));
    command.arg("-t").arg(folder).arg("-f").arg(at("qga.pid"));
    let qemu_ga = Peer::start(command, &at("qga")).context("install qemu-guest-agent")?;

    let mut command = Command::new(agent);
    command.arg("--listen").arg(at("ours")).args(["--interval", "3600"]);
    let ours = Peer::start(command, &at("ours"))?;

    let mut figures: [Figures; 4] = Default::default();
    for _ in 0..ROUNDS {
        let [of_echo, of_epoll, of_qemu_ga, of_ours] = &mut figures;
        of_epoll.round(&mut Client::connect(epoll.socket())?, ROUND_TRIPS)?;
        of_echo.round(&mut Client::connect(echo.socket())?, ROUND_TRIPS)?;
        of_qemu_ga.round(&mut Client::connect(qemu_ga.socket())?, ROUND_TRIPS)?;
        of_ours.round(&mut open_session(ours.socket())?, ROUND_TRIPS)?;
    }
    Ok(figures)
}

fn echo(socket: &Path, options: &[&str]) -> anyhow::Result<Peer> {
    let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
    command.arg("echo").arg(socket).args(options);
    Peer::start(command, socket)
}

/// What is kept of one peer.
#[derive(Default)]
struct Figures {
    median_us: Samples,
    p99_us: Samples,
}

impl Figures {
    fn round(&mut self, client: &mut Client, round_trips: usize) -> anyhow::Result<()> {
        client.round_trips(PING, WARM_UP)?;
        let mut durations = client.round_trips(PING, round_trips)?;
        self.median_us.push(percentile_us(&mut durations, 50));
        self.p99_us.push(percentile_us(&mut durations, 99));
        Ok(())
    }
}

/// A session with our agent on a quiet line: the full report and the stages
/// follow the confirmation, and a ping answered after them finds nothing else
/// being said.
fn open_session(agent: &Path) -> anyhow::Result<Client> {
    let mut client = Client::connect(agent)?;
    client.hello()?;
    client.wait_for(|message| message["event"] == "REPORT")?;
    client.send(&json!({"execute": "guest-ping", "id": "quiet"}))?;
    client.wait_for(|message| message["id"] == "quiet")?;
    Ok(client)
}

fn publish(pinned: &[Figures; 4], in_guest: &[Figures; 2]) -> anyhow::Result<()> {
    let [echo, epoll, qemu_ga, ours] = pinned;
    let [guest_qemu_ga, guest_ours] = in_guest;
    let row = |name: &str, figures: &Figures, peer: &Figures, limit: Option<&Figures>| {
        vec![
            name.to_owned(),
            format!("{:.1}", figures.median_us),
            format!("{:.1}", figures.p99_us),
            format!("{:.2}", figures.median_us.ratio(&peer.median_us)),
            limit.map_or_else(String::new, |limit| {
                format!("{:.2}", figures.median_us.ratio(&limit.median_us))
            }),
        ]
    };
    results::publish(
        "command-latency",
        &Table {
            head: vec!["`guest-ping`", "p50 µs", "p99 µs", "× qemu-ga", "× raw echo"],
            rows: vec![
                row("unix socket: raw echo", echo, qemu_ga, Some(echo)),
                row("unix socket: raw echo behind epoll", epoll, qemu_ga, Some(echo)),
                row("unix socket: qemu-ga", qemu_ga, qemu_ga, Some(echo)),
                row("unix socket: infiniservice", ours, qemu_ga, Some(echo)),
                row("virtio-serial: qemu-ga", guest_qemu_ga, guest_qemu_ga, None),
                row("virtio-serial: infiniservice", guest_ours, guest_qemu_ga, None),
            ],
            notes: vec![format!(
                "{ROUNDS} rounds in turn, of {ROUND_TRIPS} round trips over a unix socket with client and \
                 agents pinned to one processor, and of {GUEST_ROUND_TRIPS} to a guest; median (min – max) of \
                 the rounds. To reach: at most 0.4 × qemu-ga and 2 × raw echo; in the guest at most 1 × \
                 qemu-ga. The raw echo waits for nothing but its client; an agent must wait for signals and \
                 timers too, and the echo behind epoll is what that alone costs."
            )],
        },
    )
}
