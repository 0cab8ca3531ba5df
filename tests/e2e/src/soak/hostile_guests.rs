//! Guests that send what they like, as fast as they like, for as long as they
//! like. Each is read more slowly, or what it sends is dropped; a guest beside
//! it goes on being heard, and the daemon grows no larger.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use vmm_api::client::{Client, EventStream, Next};
use vmm_api::event::EventKind;
use vmm_api::guest::{AgentState, ChannelDrops, Guest};

use super::Plan;
use crate::scene::{Scene, reported, succeeded};
use crate::wait::until;

/// How many rounds a full run has: each kind several times.
pub const ROUNDS: u64 = 4 * KINDS.len() as u64;

/// How long a kind may take until its effect is seen: an emulated guest sends a
/// hundred megabytes in half a minute, on a machine that has nothing else to
/// do.
const EFFECT_LIMIT: Duration = Duration::from_secs(240);

/// How long the neighbour may take for one report. It sends one a second.
const REPORT_LIMIT: Duration = Duration::from_secs(30);

/// How many reports of the neighbour must come while the other misbehaves.
const REPORTS: usize = 5;

/// How much more memory the daemon may take while a guest misbehaves: the ring
/// of events may fill once, which holds 16 MiB, and what the allocator keeps of
/// what it gave back is as much again.
const MAX_GROWTH_KIB: u64 = 48 * 1024;

/// A way to misbehave.
pub struct Kind {
    /// What the lab calls it, as in `lab.run=hostile-NAME`.
    pub name: &'static str,
    /// Further options of the guest.
    options: &'static str,
    /// Whether it has gone on for long enough: `1` is the short form, a soak
    /// asks for more.
    seen: fn(&Guest, u64) -> bool,
}

/// 100 MB of garbage, then an agent.
pub const GARBAGE: Kind = Kind {
    name: "garbage",
    options: "lab.bytes=100000000",
    // What of it looks like objects for a while is counted with the rest.
    seen: |guest, _| guest.dropped.garbage_bytes > 95_000_000 && guest.facts_at.is_some(),
};

/// Messages as fast as the port takes them: tens of thousands a second.
pub const FLOOD: Kind = Kind {
    name: "flood",
    options: "",
    seen: |guest, times| {
        guest.channel.pauses.messages > 0 && guest.channel.paused_s > 4.0 * times as f64
    },
};

/// Hellos as fast as the port takes them: thousands a second.
pub const HELLO: Kind = Kind {
    name: "hello",
    options: "",
    seen: |guest, times| {
        guest.channel.pauses.hellos > 0 && guest.channel.paused_s > 4.0 * times as f64
    },
};

/// Reports whose merged facts grow without end.
pub const FACTS: Kind = Kind {
    name: "facts",
    options: "",
    seen: |guest, times| guest.dropped.facts_over_limit >= times,
};

/// Reports of 1 MiB that hold nothing but small objects.
pub const WIDE: Kind =
    Kind { name: "wide", options: "", seen: |guest, times| guest.dropped.too_wide >= 2 * times };

/// A port that is opened and closed all the time. QEMU tells how it is once a
/// second, and this often it is sure to be seen.
pub const PORT: Kind =
    Kind { name: "port", options: "", seen: |guest, times| guest.channel.port_opens >= 2 * times };

/// A guest that speaks and never reads.
pub const DEAF: Kind = Kind {
    name: "deaf",
    options: "",
    seen: |guest, times| {
        guest.channel.hellos >= 5 * times && guest.summary.agent == AgentState::Connected
    },
};

const KINDS: [Kind; 7] = [GARBAGE, FLOOD, HELLO, FACTS, WIDE, PORT, DEAF];

/// How much longer than in its short form a kind goes on in a soak.
const LENGTH: u64 = 10;

/// Every kind in turn, at length.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let mut neighbour = Neighbour::boot(&scene).await?;
    for round in plan.rounds.clone() {
        plan.begin(round);
        let kind = &KINDS[usize::try_from(round - 1)? % KINDS.len()];
        let cost = neighbour.beside(&scene, kind, LENGTH).await.context(kind.name)?;
        plan.count(kind.name);
        plan.add("MB received from hostile guests", cost.received_bytes / 1_000_000);
        plan.add("seconds that hostile guests were paused", cost.paused_s);
        plan.add("reports of the neighbour meanwhile", cost.reports);
        plan.add("ms of processor time of the daemon", cost.cpu_ms);
        plan.add("seconds of hostile guests", cost.seconds);
    }
    Ok(())
}

/// One kind, in its short form.
pub async fn short(scene: Scene, kind: Kind) -> Result<()> {
    Neighbour::boot(&scene).await?.beside(&scene, &kind, 1).await.map(drop)
}

/// What a guest that misbehaved cost.
struct Cost {
    received_bytes: u64,
    paused_s: u64,
    reports: u64,
    cpu_ms: u64,
    seconds: u64,
}

/// A guest that is well.
struct Neighbour {
    client: Client,
    events: EventStream,
}

impl Neighbour {
    async fn boot(scene: &Scene) -> Result<Self> {
        let client = scene.start_daemon().await?;
        scene.boot(&client, &scene.spec("well")).await?;
        reported(&client, "well").await?;
        let events = client.events(Some("well"), None).await?;
        Ok(Self { client, events })
    }

    /// Boots a guest that misbehaves, waits until that is seen, and looks what
    /// it cost the neighbour and the daemon.
    async fn beside(&mut self, scene: &Scene, kind: &Kind, times: u64) -> Result<Cost> {
        let daemon = Path::new("/proc").join(scene.daemon_pid()?.to_string());
        let (memory, cpu) = (resident_kib(&daemon)?, cpu_ms(&daemon)?);
        let began = std::time::Instant::now();
        let options = format!("lab.run=hostile-{} {}", kind.name, kind.options);
        let spec = scene.spec_with("rogue", options.trim_end());
        self.client.create(&spec).await?;
        scene.start(&self.client, "rogue").await?;
        let client = self.client.clone();
        let seen = until("the effect of what it does", EFFECT_LIMIT, || async {
            let guest = client.guest("rogue").await?;
            Ok((kind.seen)(&guest, times).then_some(guest))
        });
        let waited = seen.await;
        let rogue = match waited {
            Ok(guest) => guest,
            Err(error) => {
                let guest = self.client.guest("rogue").await?;
                return Err(error.context(format!("{:?} {:?}", guest.channel, guest.dropped)));
            }
        };
        let reports = self.is_heard().await?;
        let grown = resident_kib(&daemon)?.saturating_sub(memory);
        ensure!(grown < MAX_GROWTH_KIB, "the daemon grew by {grown} KiB: {rogue:?}");
        let cost = Cost {
            received_bytes: rogue.channel.received_bytes,
            paused_s: rogue.channel.paused_s as u64,
            reports,
            cpu_ms: cpu_ms(&daemon)?.saturating_sub(cpu),
            seconds: began.elapsed().as_secs(),
        };
        succeeded(&self.client, self.client.kill("rogue").await?).await?;
        succeeded(&self.client, self.client.delete("rogue").await?).await?;
        Ok(cost)
    }

    /// Its reports came all the while and go on coming, and nothing of what it
    /// said was dropped or held back. Says how many came.
    async fn is_heard(&mut self) -> Result<u64> {
        let now = Timestamp::now();
        let (mut fresh, mut reports) = (0, 0);
        // First those that waited here, then those of now.
        while fresh < REPORTS {
            let next = tokio::time::timeout(REPORT_LIMIT, self.events.next()).await;
            match next.context("the neighbour is not heard any more")?? {
                Next::Event(received) => match received.event.kind {
                    EventKind::Facts { .. } => {
                        reports += 1;
                        fresh += usize::from(received.event.at > now);
                    }
                    EventKind::Agent { agent } => {
                        ensure!(agent == AgentState::Connected, "the neighbour is {agent:?}");
                    }
                    EventKind::Missed { count } => bail!("{count:?} events were missed"),
                    _ => {}
                },
                other => bail!("the stream of events is gone: {other:?}"),
            }
        }
        let Guest { summary, dropped, channel, .. } = self.client.guest("well").await?;
        ensure!(summary.agent == AgentState::Connected, "{summary:?}");
        ensure!(dropped == ChannelDrops::default(), "{dropped:?}");
        ensure!(channel.pauses.total() == 0, "{channel:?}");
        Ok(reports)
    }
}

/// A process's resident memory, in KiB.
fn resident_kib(process: &Path) -> Result<u64> {
    let status = std::fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The processor time that a process took so far, in milliseconds.
fn cpu_ms(process: &Path) -> Result<u64> {
    let stat = std::fs::read_to_string(process.join("stat"))?;
    // After the name, which may hold anything, utime and stime are the 12th
    // and 13th field, in hundredths of a second.
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(10 * ticks.sum::<std::result::Result<u64, _>>()?)
}
