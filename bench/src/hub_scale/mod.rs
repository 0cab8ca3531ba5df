//! The hub at thousands of guests: the daemon's processor time beside that of a
//! bare reader of the same sockets, its memory for each guest, and the delay
//! from a guest's write to a subscriber. The machines are simulated; the guests'
//! sockets, the reports, the daemon's process and its subscriber are not.

mod guests;
mod part;
mod reader;
mod record;
mod reports;
mod subscriber;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use lab::build::HostPrograms;
use lab::daemon::{Daemon, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use vmm_api::client::Client;

pub use part::{Part, Running, cpu_seconds, peak_kib, reset_peak, run as run_part};
pub use record::run as record;
pub use subscriber::Heard;

use crate::samples::Samples;
use guests::Count;
use lab::results::{self, Table};
use part::memory_kib;

/// The daemon with the feature `simulated`, beside the one that is shipped.
pub const DAEMON: &str = "vmm-service-simulated";

/// Guests, smallest first: each size adds to the VMs of the one before.
const SIZES: [usize; 3] = [1_000, 3_000, 10_000];
/// Pairs of the daemon and the bare reader at each size.
const PAIRS: usize = 5;
/// What is measured of each: several times a guest's round of ten reports, and
/// two heartbeats.
const SPAN: Duration = Duration::from_secs(20);
/// From the last guest's first report to the span: all have told everything, and
/// what the start left to do is done.
const SETTLE: Duration = Duration::from_secs(5);
/// How long all guests may take to have reported once.
const REPORT_LIMIT: Duration = Duration::from_secs(120);
/// Guests in one process: each takes two descriptors, and 20,000 is the usual
/// hard limit in containers.
const GUESTS_A_PROCESS: usize = 5_000;
/// Requests to the daemon at a time, while VMs are made.
const REQUESTS_AT_ONCE: usize = 64;

/// Measures and publishes; with `once` a single pair, which is only printed.
pub fn run(programs: &Path, once: Option<usize>) -> Result<()> {
    let sizes = once.map_or(SIZES.to_vec(), |size| vec![size]);
    let pairs = if once.is_some() { 1 } else { PAIRS };
    raise_open_files()?;
    let bench = Bench::prepare(programs)?;
    // What the daemon takes without a VM, and with a subscriber.
    let empty = {
        let daemon = Daemon::start(bench.settings.clone())?;
        let _subscriber = bench.subscribe()?;
        pass(SETTLE);
        memory_kib(daemon.pid())?
    };
    let mut rows = Vec::new();
    let mut made = 0;
    for size in sizes {
        let begun = Instant::now();
        bench.make(made, size)?;
        made = size;
        eprintln!("{size} VMs were there after {:.1?}", begun.elapsed());
        let mut guests = bench.play(size)?;
        let mut figures = Figures::default();
        for pair in 1..=pairs {
            bench.daemon(size, &mut guests, &empty, &mut figures)?;
            bench.reader(size, &mut guests, &mut figures)?;
            eprintln!("{size} guests, pair {pair} of {pairs}: {}", figures.row(size).join(" | "));
        }
        rows.push(figures.row(size));
    }
    if once.is_some() { Ok(()) } else { publish(rows) }
}

/// As far as this process may by itself: its children inherit it.
pub fn raise_open_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("the limit on open files could not be raised")
}

/// A daemon's settings, its simulated machines, and what plays their guests.
pub struct Bench {
    settings: Settings,
    machines: PathBuf,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

/// What was measured at one size.
#[derive(Default)]
struct Figures {
    /// Of one processor, in percent.
    daemon: Samples,
    reader: Samples,
    rss_kib: Samples,
    anonymous_kib: Samples,
    p50_ms: Samples,
    p99_ms: Samples,
    start_s: Samples,
    heard: usize,
    lost: u64,
}

impl Bench {
    /// A state without a VM, of a daemon that lies among `programs`.
    pub fn prepare(programs: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ib-bench-").tempdir_in("/tmp")?;
        let machines = folder.path().join("m");
        std::fs::create_dir(&machines)?;
        // Simulated machines boot from anything that is there.
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, "")?;
        let settings = Settings {
            programs: HostPrograms {
                daemon: programs.join(DAEMON),
                vmmctl: programs.join("vmmctl"),
            },
            folder: folder.path().join("d"),
            environment: vec![
                ("VMM_SIMULATED".into(), machines.clone().into()),
                ("VMM_KERNEL_PATH".into(), kernel.into()),
                // One line a VM and start would fill the disk, and is not what
                // is measured.
                ("VMM_LOG_LEVEL".into(), "warn".into()),
            ],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { settings, machines, runtime, _folder: folder })
    }

    /// How the daemon is started.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// The folder of the guests' sockets.
    pub fn machines(&self) -> &Path {
        &self.machines
    }

    /// Makes and starts VMs until there are `size`.
    pub fn make(&self, made: usize, size: usize) -> Result<()> {
        let daemon = Daemon::start(self.settings.clone())?;
        let client = Client::new(self.settings.socket());
        let client = &client;
        let ids: Vec<String> = self.runtime.block_on(
            stream::iter(made..size)
                .map(|index| async move {
                    let name = format!("guest-{index}");
                    let spec = json!({"name": name, "vcpus": 1, "memory_mib": 64});
                    let id = client.create(&spec).await?.id;
                    client.start(&id.to_string()).await?;
                    anyhow::Ok(id.to_string())
                })
                .buffered(REQUESTS_AT_ONCE)
                .try_collect(),
        )?;
        let path = self.machines.join(part::IDS);
        let mut all = std::fs::read_to_string(&path).unwrap_or_default();
        ids.iter().for_each(|id| all.extend([id, "\n"]));
        std::fs::write(path, all)?;
        // It ends what was begun, the starts among it.
        daemon.stop().map(drop)
    }

    /// The processes that play the first `size` guests.
    pub fn play(&self, size: usize) -> Result<Vec<Running>> {
        let folder = self.machines.to_str().context("the folder's name is not UTF-8")?;
        for entry in std::fs::read_dir(&self.machines)? {
            let path = entry?.path();
            // Left by the processes of the size before.
            if path.extension().is_some_and(|end| end == "sock") {
                std::fs::remove_file(path)?;
            }
        }
        (0..size)
            .step_by(GUESTS_A_PROCESS)
            .map(|from| {
                let count = GUESTS_A_PROCESS.min(size - from).to_string();
                Running::start(&["guests", folder, &from.to_string(), &count])
            })
            .collect()
    }

    /// A subscriber of all events.
    pub fn subscribe(&self) -> Result<Running> {
        let socket = self.settings.socket();
        Running::start(&["subscriber", socket.to_str().context("the socket is not UTF-8")?])
    }

    fn daemon(
        &self,
        size: usize,
        guests: &mut [Running],
        empty: &[f64; 2],
        figures: &mut Figures,
    ) -> Result<()> {
        let begun = Instant::now();
        let hosts = count(guests)?.accepted;
        let daemon = Daemon::start(self.settings.clone())?;
        figures.start_s.push(begun.elapsed().as_secs_f64());
        let mut subscriber = self.subscribe()?;
        wait_for_reports(size, guests, hosts)?;
        pass(SETTLE);
        let before = count(guests)?;
        // Asked, so that what came before does not count.
        let _: Heard = subscriber.ask()?;
        figures.daemon.push(percent_over_span(daemon.pid())?);
        let heard: Heard = subscriber.ask()?;
        let after = count(guests)?;
        let [rss, anonymous] = memory_kib(daemon.pid())?;
        figures.rss_kib.push((rss - empty[0]) / size as f64);
        figures.anonymous_kib.push((anonymous - empty[1]) / size as f64);
        figures.p50_ms.push(heard.p50_us / 1e3);
        figures.p99_ms.push(heard.p99_us / 1e3);
        figures.heard += heard.reports;
        figures.lost += heard.lost + heard.missed + after.refused - before.refused;
        ensure!(after.connected == size, "the daemon let go of {}", size - after.connected);
        daemon.stop().map(drop)
    }

    fn reader(&self, size: usize, guests: &mut [Running], figures: &mut Figures) -> Result<()> {
        let folder = self.machines.to_str().context("the folder's name is not UTF-8")?;
        let hosts = count(guests)?.accepted;
        let reader = Running::start(&["reader", folder, &size.to_string()])?;
        wait_for_reports(size, guests, hosts)?;
        pass(SETTLE);
        figures.reader.push(percent_over_span(reader.pid())?);
        Ok(())
    }
}

/// Waits until each guest has told its new host everything. `hosts` is how many
/// were let in before this one.
pub fn wait_for_reports(size: usize, guests: &mut [Running], hosts: usize) -> Result<()> {
    lab::wait::until("a report of every guest", REPORT_LIMIT, || {
        let count = count(guests)?;
        Ok((count.accepted >= hosts + size && count.reported == size).then_some(()))
    })
}

/// Lets a time pass.
#[allow(clippy::disallowed_methods, reason = "what is measured is what happens in a time")]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// What all guests did so far.
pub fn count(guests: &mut [Running]) -> Result<Count> {
    let mut sum = Count::default();
    for part in guests {
        let count: Count = part.ask()?;
        sum.accepted += count.accepted;
        sum.connected += count.connected;
        sum.reported += count.reported;
        sum.sent += count.sent;
        sum.refused += count.refused;
    }
    Ok(sum)
}

/// The processor time of a process over the span, in percent of one processor.
fn percent_over_span(pid: u32) -> Result<f64> {
    let (begun, before) = (Instant::now(), cpu_seconds(pid)?);
    pass(SPAN);
    Ok(100.0 * (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64())
}

impl Figures {
    fn row(&self, size: usize) -> Vec<String> {
        vec![
            size.to_string(),
            format!("{:.1}", self.daemon),
            format!("{:.1}", self.reader),
            format!("{:.2}", self.daemon.ratio(&self.reader)),
            format!("{:.1}", self.rss_kib),
            format!("{:.1}", self.anonymous_kib),
            format!("{:.1}", self.p50_ms),
            format!("{:.1}", self.p99_ms),
            format!("{} of {}", self.lost, self.heard),
            format!("{:.1}", self.start_s),
        ]
    }
}

fn publish(rows: Vec<Vec<String>>) -> Result<()> {
    let lengths: Vec<String> =
        reports::load()?.iter().map(|report| report.len().to_string()).collect();
    results::publish(
        "hub-scale",
        &Table {
            head: vec![
                "guests",
                "daemon's CPU, %",
                "bare reader's, %",
                "÷ bare reader",
                "KiB a guest",
                "anonymous",
                "p50 ms",
                "p99 ms",
                "lost",
                "start, s",
            ],
            rows,
            notes: vec![
                format!(
                    "{PAIRS} pairs at each size, in turn, of {} s each; a report a second from each guest, \
                     in rounds of {} bytes; one subscriber. CPU is of one processor, in user and kernel. \
                     KiB a guest is what the daemon's resident memory grows by with all guests connected \
                     and reporting, over that without a VM, divided by the guests. Lost is what the \
                     subscriber missed and what the daemon did not read in time. The start is the daemon's, \
                     from its process to the answer to /health, with that many VMs that run.",
                    SPAN.as_secs(),
                    lengths.join(", "),
                ),
                "To reach at 10,000: nothing lost, at most 32 KiB, p99 below 250 ms, at most 2 × the bare \
                 reader, which reads the same sockets into the same types and drops them."
                    .to_owned(),
            ],
        },
    )
}
