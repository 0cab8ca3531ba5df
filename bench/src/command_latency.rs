//! `guest-ping` round trips from a native client over a unix socket, client and
//! agents pinned to one processor, beside qemu-ga and a raw echo.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::json;

use crate::guest_wire::Client;
use crate::peers::{self, Peer};
use crate::results::{self, Table};
use crate::samples::{Samples, percentile_us};

/// Rounds of echo, qemu-ga and ours in turn.
const ROUNDS: usize = 9;
/// Round trips in each round of each.
const ROUND_TRIPS: usize = 20_000;
/// Round trips before each round that are not counted.
const WARM_UP: usize = 1_000;

const PING: &[u8] = b"{\"execute\":\"guest-ping\"}\n";

/// Measures and publishes.
pub fn run(agent: &Path) -> anyhow::Result<()> {
    peers::pin_to_one_cpu()?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let at = |name: &str| folder.path().join(name);

    let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
    command.arg("echo").arg(at("echo"));
    let echo = Peer::start(command, &at("echo"))?;

    let mut command = Command::new("qemu-ga");
    command.args(["-m", "unix-listen", "-p"]).arg(at("qga"));
    command.arg("-t").arg(folder.path()).arg("-f").arg(at("qga.pid"));
    let qemu_ga = Peer::start(command, &at("qga")).context("install qemu-guest-agent")?;

    let mut command = Command::new(agent);
    command.arg("--listen").arg(at("ours")).args(["--interval", "3600"]);
    let ours = Peer::start(command, &at("ours"))?;

    let mut figures: [Figures; 3] = Default::default();
    for _ in 0..ROUNDS {
        let [of_echo, of_qemu_ga, of_ours] = &mut figures;
        of_echo.round(&mut Client::connect(echo.socket())?)?;
        of_qemu_ga.round(&mut Client::connect(qemu_ga.socket())?)?;
        of_ours.round(&mut open_session(&ours)?)?;
    }
    publish(&figures)
}

/// What is kept of one peer.
#[derive(Default)]
struct Figures {
    median_us: Samples,
    p99_us: Samples,
}

impl Figures {
    fn round(&mut self, client: &mut Client) -> anyhow::Result<()> {
        client.round_trips(PING, WARM_UP)?;
        let mut durations = client.round_trips(PING, ROUND_TRIPS)?;
        self.median_us.push(percentile_us(&mut durations, 50));
        self.p99_us.push(percentile_us(&mut durations, 99));
        Ok(())
    }
}

/// A session with our agent on a quiet line: the full report and the stages
/// follow the confirmation, and a ping answered after them finds nothing else
/// being said.
fn open_session(agent: &Peer) -> anyhow::Result<Client> {
    let mut client = Client::connect(agent.socket())?;
    client.hello()?;
    client.wait_for(|message| message["event"] == "REPORT")?;
    client.send(&json!({"execute": "guest-ping", "id": "quiet"}))?;
    client.wait_for(|message| message["id"] == "quiet")?;
    Ok(client)
}

fn publish([echo, qemu_ga, ours]: &[Figures; 3]) -> anyhow::Result<()> {
    let row = |name: &str, figures: &Figures| {
        vec![
            name.to_owned(),
            format!("{:.1}", figures.median_us),
            format!("{:.1}", figures.p99_us),
            format!("{:.2}", figures.median_us.ratio(&qemu_ga.median_us)),
            format!("{:.2}", figures.median_us.ratio(&echo.median_us)),
        ]
    };
    results::publish(
        "command-latency",
        &Table {
            head: vec!["unix socket, one processor", "p50 µs", "p99 µs", "× qemu-ga", "× raw echo"],
            rows: vec![row("raw echo", echo), row("qemu-ga", qemu_ga), row("infiniservice", ours)],
            notes: vec![format!(
                "`guest-ping`, {ROUND_TRIPS} round trips in each of {ROUNDS} rounds in turn; median (min – max) \
                 of the rounds. To reach: at most 0.4 × qemu-ga and 2 × raw echo."
            )],
        },
    )
}
