//! What an agent holds in a guest after a thousand reports and a thousand
//! commands, beside qemu-ga after the same commands and node_exporter after a
//! number of scrapes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::results::{self, Table};
use serde_json::json;

use crate::guest::{Bench, Guest};
use crate::guest_wire::Client;
use crate::samples::Samples;

/// Boots; each measures all three once.
const ROUNDS: usize = 5;
const REPORTS: usize = 1_000;
const COMMANDS: usize = 1_000;
/// A scrape costs an emulated processor a tenth of a second; node_exporter's
/// memory does not grow any more after a few dozen.
const SCRAPES: usize = 100;
/// How long the peers' part may take in an emulated guest.
const GUEST_LIMIT: Duration = Duration::from_secs(300);

/// What both agents understand.
const QUERIES: [&str; 3] = ["guest-ping", "guest-info", "guest-sync"];

/// In the order of the table.
const PROGRAMS: [&str; 3] = ["infiniservice", "qemu-ga", "prometheus-node-exporter"];

/// Measures and publishes.
pub fn run(daemon: &Path, agent: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let bench = Bench::prepare(daemon, agent, folder.path())?;
    let mut figures: [Figures; 3] = Default::default();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        let mut guest = bench.boot(&format!("bench.scrapes={SCRAPES}"))?;
        exercise(&mut guest)?;
        for (name, figures) in PROGRAMS.iter().zip(&mut figures) {
            figures.push(&measured(&mut guest, name)?);
        }
    }
    publish(&figures)
}

#[derive(Default)]
struct Figures {
    rss: Samples,
    pss: Samples,
    anonymous: Samples,
}

impl Figures {
    fn push(&mut self, kib: &[f64; 3]) {
        self.rss.push(kib[0]);
        self.pss.push(kib[1]);
        self.anonymous.push(kib[2]);
    }
}

fn exercise(guest: &mut Guest) -> Result<()> {
    let mut ours = Client::connect(&guest.ours)?;
    ours.hello()?;
    for seq in 0..REPORTS {
        ours.send(&json!({"execute": "agent-report", "id": seq}))?;
        ours.wait_for(|message| message["event"] == "REPORT" && message["data"]["full"] == true)?;
    }
    ask(&mut ours)?;
    ask(&mut Client::connect(&guest.qemu_ga)?)?;
    guest.machine.wait_for_console(&format!("bench: scraped {SCRAPES} times"), GUEST_LIMIT)
}

fn ask(client: &mut Client) -> Result<()> {
    for id in 0..COMMANDS {
        let name = QUERIES[id % QUERIES.len()];
        let arguments = if name == "guest-sync" { json!({"id": id}) } else { json!({}) };
        client.send(&json!({"execute": name, "arguments": arguments, "id": id}))?;
        let answer = client.wait_for(|message| message["id"] == id)?;
        anyhow::ensure!(answer.get("return").is_some(), "{name} was refused: {answer}");
    }
    Ok(())
}

/// Rss, Pss and anonymous memory in KiB, by a line that was written after now.
fn measured(guest: &mut Guest, program: &str) -> Result<[f64; 3]> {
    let wanted = format!("bench: memory {program} ");
    let before = guest.machine.console().len();
    lab::wait::until(&wanted, GUEST_LIMIT, || {
        let console = guest.machine.console();
        let line = console[before..].lines().find_map(|line| line.strip_prefix(&wanted));
        let numbers: Option<Vec<f64>> =
            line.map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect());
        Ok(numbers.and_then(|numbers| numbers.try_into().ok()))
    })
}

fn publish(figures: &[Figures; 3]) -> Result<()> {
    let [ours, qemu_ga, node_exporter] = figures;
    let rows = PROGRAMS.iter().zip(figures).map(|(name, figures)| {
        vec![
            (*name).to_owned(),
            format!("{:.0}", figures.rss),
            format!("{:.0}", figures.pss),
            format!("{:.0}", figures.anonymous),
            format!("{:.2}", ours.rss.ratio(&figures.rss)),
        ]
    });
    results::publish(
        "agent-memory",
        &Table {
            head: vec!["in a guest, KiB", "Rss", "Pss", "anonymous", "ours ÷ this, by Rss"],
            rows: rows.collect(),
            notes: vec![format!(
                "After {REPORTS} reports and {COMMANDS} commands (qemu-ga: the same commands; node_exporter: \
                 {SCRAPES} scrapes), by /proc/PID/smaps_rollup, {ROUNDS} boots. By Pss: {:.2} × qemu-ga, {:.3} × \
                 node_exporter. To reach: at most 0.25 × qemu-ga and 0.05 × node_exporter.",
                ours.pss.ratio(&qemu_ga.pss),
                ours.pss.ratio(&node_exporter.pss),
            )],
        },
    )
}
