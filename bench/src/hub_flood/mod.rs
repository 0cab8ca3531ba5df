//! One guest that floods, and what a hundred others notice of it: how much later
//! their reports reach a subscriber, and how much memory and time the daemon
//! takes. Everything but the machines is real, as in hub-scale.

mod flooder;
mod floods;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::daemon::Daemon;
use lab::results::{self, Table};

pub use flooder::run as flood;

use crate::hub_scale::{
    Bench, Heard, Running, count, cpu_seconds, pass, peak_kib, raise_open_files, reset_peak,
    wait_for_reports,
};
use crate::samples::Samples;
use flooder::Flooded;
use floods::Kind;

/// Guests that report once a second.
const OTHERS: usize = 100;
/// Pairs of a span with a quiet guest and one with a flood, for each kind.
const PAIRS: usize = 5;
/// Three hundred reports of the others: the 99th percentile is not the slowest.
const SPAN: Duration = Duration::from_secs(3);
/// From the others' first reports to the first span.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures and publishes; with `once` a single pair of each kind, which is only
/// printed.
pub fn run(programs: &Path, once: bool) -> Result<()> {
    raise_open_files()?;
    let bench = Bench::prepare(programs)?;
    bench.make(0, OTHERS + 1)?;
    let mut guests = bench.play(OTHERS)?;
    let folder = bench.machines().to_str().context("the folder's name is not UTF-8")?;
    let mut flooder = Running::start(&["flooder", folder, &OTHERS.to_string()])?;
    let pairs = if once { 1 } else { PAIRS };
    let mut rows = Vec::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate().skip(1) {
        let mut figures = Figures::default();
        for _ in 0..pairs {
            let hosts = count(&mut guests)?.accepted;
            // A new one for each pair, so that each flood is its first.
            let daemon = Daemon::start(bench.settings())?;
            let mut subscriber = bench.subscribe()?;
            wait_for_reports(OTHERS, &mut guests, hosts)?;
            pass(SETTLE);
            let quiet = span(daemon.pid(), 0, &mut subscriber, &mut flooder)?;
            let flooded = span(daemon.pid(), number, &mut subscriber, &mut flooder)?;
            figures.push(&quiet, &flooded);
            daemon.stop()?;
        }
        rows.push(figures.row(kind));
        eprintln!("{}", figures.row(kind).join(" | "));
    }
    if once { Ok(()) } else { publish(rows) }
}

/// What happened in a span.
struct Span {
    heard: Heard,
    flooded: Flooded,
    /// The daemon's largest resident memory.
    peak_kib: f64,
    /// Of one processor, in percent.
    cpu: f64,
}

/// Lets the one guest do what the kind's number says for a span, and be quiet
/// after it.
fn span(pid: u32, kind: usize, subscriber: &mut Running, flooder: &mut Running) -> Result<Span> {
    reset_peak(pid)?;
    // Asked, so that what came before does not count.
    let _: serde_json::Value = subscriber.ask()?;
    let (begun, before) = (Instant::now(), cpu_seconds(pid)?);
    let _: Flooded = flooder.tell(&kind.to_string())?;
    pass(SPAN);
    let flooded = flooder.tell("0")?;
    let cpu = 100.0 * (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64();
    let heard = subscriber.ask().context("the subscriber heard no report")?;
    Ok(Span { heard, flooded, peak_kib: peak_kib(pid)?, cpu })
}

#[derive(Default)]
struct Figures {
    quiet_ms: Samples,
    flooded_ms: Samples,
    moved_ms: Samples,
    grown_mib: Samples,
    quiet_cpu: Samples,
    flooded_cpu: Samples,
    mib_a_second: Samples,
    heard: usize,
    lost: u64,
}

impl Figures {
    fn push(&mut self, quiet: &Span, flooded: &Span) {
        let [before, after] = [quiet, flooded].map(|span| span.heard.p99_us / 1e3);
        self.quiet_ms.push(before);
        self.flooded_ms.push(after);
        self.moved_ms.push(after - before);
        self.grown_mib.push((flooded.peak_kib - quiet.peak_kib) / 1024.0);
        self.quiet_cpu.push(quiet.cpu);
        self.flooded_cpu.push(flooded.cpu);
        let mib = flooded.flooded.bytes as f64 / (1024.0 * 1024.0);
        self.mib_a_second.push(mib / SPAN.as_secs_f64());
        for heard in [&quiet.heard, &flooded.heard] {
            self.heard += heard.reports;
            self.lost += heard.lost + heard.missed;
        }
    }

    fn row(&self, kind: Kind) -> Vec<String> {
        vec![
            kind.name().to_owned(),
            format!("{:.1}", self.quiet_ms),
            format!("{:.1}", self.flooded_ms),
            format!("{:.1}", self.moved_ms),
            format!("{:.1}", self.grown_mib),
            format!("{:.0}", self.quiet_cpu),
            format!("{:.0}", self.flooded_cpu),
            format!("{:.1}", self.mib_a_second),
            format!("{} of {}", self.lost, self.heard),
        ]
    }
}

fn publish(rows: Vec<Vec<String>>) -> Result<()> {
    results::publish(
        "hub-flood",
        &Table {
            head: vec![
                "the one guest sends",
                "others' p99, it is quiet, ms",
                "it floods, ms",
                "moved by, ms",
                "memory grew by, MiB",
                "CPU, quiet, %",
                "CPU, flooded, %",
                "taken, MiB/s",
                "lost",
            ],
            rows,
            notes: vec![format!(
                "{OTHERS} guests report once a second; the p99 is that of their reports' delay \
                 from the guest's write to a subscriber. {PAIRS} pairs for each kind, in turn, each \
                 with a new daemon: {0} s in which one more guest is quiet, then {0} s in which it \
                 writes as fast as it is read, and reads nothing itself. Memory is the largest \
                 resident memory of the daemon in the one span less that in the other; CPU is the \
                 daemon's, of one processor. To reach: moved by less than 10 ms, grown by less \
                 than 16 MiB.",
                SPAN.as_secs(),
            )],
        },
    )
}
