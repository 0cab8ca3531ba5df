//! The host's own faults, one after the other, beside a machine that runs on
//! through all of them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lab::daemon::Settings;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use vmm_api::client::{Client, Error};
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::{DiskFormat, DiskSpec, State, Vm, VmSpec};

use super::Plan;
use crate::scene::{BLINK, Scene, connected, facts_go_on, succeeded};
use crate::small_file_system::FailingFileSystem;
use crate::wait::until;

/// How many faults a full run has.
pub const ROUNDS: u64 = 200;

/// The disk of the state, in MiB: the least that ext4 likes to be.
const DISK_MIB: u64 = 4;
/// How many descriptors the daemon may open when it is short of them.
const SPARE_DESCRIPTORS: u64 = 3;
/// How many connections come then.
const FLOOD: usize = 64;
/// How often the daemon says that it could not accept one until it is believed.
const REFUSALS: usize = 5;

/// A fault of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not one more byte can be written.
    DiskFull,
    /// The kernel lets nobody write to the file system any more.
    DiskReadOnly,
    /// The daemon can open nothing more.
    NoDescriptors,
    /// The clock is set back an hour and on a year.
    Clock,
}

/// Every fault.
const FAULTS: [Fault; 4] =
    [Fault::DiskFull, Fault::DiskReadOnly, Fault::NoDescriptors, Fault::Clock];

/// A daemon whose state lies on a disk of its own, and a machine that runs.
struct World {
    scene: Scene,
    disk: FailingFileSystem,
    settings: Settings,
    client: Client,
    /// The machine that must not notice.
    web: Vm,
    /// What its operator tries things with.
    other: String,
}

/// Faults at random, round after round.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let mut world = World::new(scene).await?;
    for round in plan.rounds.clone() {
        let mut random = plan.begin(round);
        let fault = FAULTS[random.usize(..FAULTS.len())];
        world.suffer(fault, &mut random).await.with_context(|| format!("{fault:?}"))?;
        plan.count(match fault {
            Fault::DiskFull => "full disks",
            Fault::DiskReadOnly => "read-only disks",
            Fault::NoDescriptors => "times out of descriptors",
            Fault::Clock => "times the clock was set back and on",
        });
    }
    Ok(())
}

/// One fault.
pub async fn one(scene: Scene, fault: Fault) -> Result<()> {
    let seed = scene.stage().seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    World::new(scene).await?.suffer(fault, &mut fastrand::Rng::with_seed(seed)).await
}

impl World {
    async fn new(scene: Scene) -> Result<Self> {
        let disk = FailingFileSystem::mount(scene.folder().join("disk"), DISK_MIB)?;
        let url = format!("sqlite://{}", disk.path().join("state.db").display());
        let mut settings = scene.settings();
        settings.environment.push(("VMM_STATE_URL".into(), url.into()));
        let client = scene.start_daemon_with(settings.clone()).await?;
        let web = scene.boot(&client, &scene.spec("web")).await?;
        let world = Self { scene, disk, settings, client, web, other: "other".to_owned() };
        world.client.create(&world.bare(&world.other)?).await?;
        Ok(world)
    }

    async fn suffer(&mut self, fault: Fault, random: &mut fastrand::Rng) -> Result<()> {
        match fault {
            Fault::DiskFull => self.disk_full(random).await,
            Fault::DiskReadOnly => self.disk_read_only(random).await,
            Fault::NoDescriptors => self.no_descriptors().await,
            Fault::Clock => self.clock().await,
        }?;
        self.works().await
    }

    /// A full disk: everything that has to be written down is refused, and
    /// nothing is done about it.
    async fn disk_full(&self, random: &mut fastrand::Rng) -> Result<()> {
        let ballast = self.disk.fill()?;
        self.all_is_refused("disk-full", random).await?;
        std::fs::remove_file(ballast)?;
        Ok(())
    }

    /// A disk that takes no writes any more, under the daemon's feet: the same,
    /// and a daemon that starts says so and leaves.
    async fn disk_read_only(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        self.disk.fail()?;
        self.all_is_refused("disk-fails", random).await?;
        self.scene.kill_daemon()?;
        std::fs::write(self.settings.log(), "")?;
        let started = self.scene.start_daemon_with(self.settings.clone()).await;
        let said = format!("{:#}", started.err().context("it started on a read-only disk")?);
        ensure!(said.contains("remount"), "no word of what to do: {said}");
        self.disk.mend()?;
        self.start_daemon(Vec::new()).await
    }

    /// Every request that changes something is refused with the problem, and
    /// every VM is as it was.
    async fn all_is_refused(&self, problem: &str, random: &mut fastrand::Rng) -> Result<()> {
        let (client, other) = (&self.client, self.other.as_str());
        let mut requests = ["create", "start", "delete", "stop", "kill", "pause", "restart"];
        random.shuffle(&mut requests);
        for request in requests {
            let refused = match request {
                "create" => client.create(&self.bare("new")?).await.err(),
                "start" => client.start(other).await.err(),
                "delete" => client.delete(other).await.err(),
                "stop" => client.stop("web", &Default::default()).await.err(),
                "kill" => client.kill("web").await.err(),
                "pause" => client.pause("web").await.err(),
                _ => client.restart("web", &Default::default()).await.err(),
            };
            match refused {
                Some(Error::Problem(said)) if said.kind.ends_with(problem) => {}
                said => anyhow::bail!("{request} was not refused as {problem}: {said:?}"),
            }
        }
        ensure!(client.vm("new").await.is_err(), "a VM was made that was refused");
        ensure!(client.vm(other).await?.state == State::Created, "a refused start was done");
        self.web_runs().await
    }

    /// No descriptor to be had: a start fails and says why, callers wait without
    /// the daemon spinning, and all is well when there are some again.
    async fn no_descriptors(&self) -> Result<()> {
        let pid = self.scene.daemon_pid()?;
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        let before = limit_descriptors(pid, Some(open + SPARE_DESCRIPTORS))?;
        let failed = ended(&self.client, self.client.start(&self.other).await?).await?;
        let why = failed.error.context("a machine was started without a descriptor")?;
        ensure!(why.contains("open files"), "it does not say why: {why}");

        std::fs::write(self.settings.log(), "")?;
        let (began, spent) = (Instant::now(), processor_seconds(pid)?);
        let connect = |_| UnixStream::connect(self.settings.socket());
        let flood = (0..FLOOD).map(connect).collect::<std::io::Result<Vec<_>>>()?;
        until("the daemon to say that it is out of descriptors", BLINK, || async {
            let said = std::fs::read_to_string(self.settings.log())?;
            Ok((said.matches("could not be accepted").count() >= REFUSALS).then_some(()))
        })
        .await?;
        let share = (processor_seconds(pid)? - spent) / began.elapsed().as_secs_f64();
        ensure!(share < 0.5, "it spins: {share:.2} of a processor");
        drop(flood);
        self.client.health().await?;
        self.web_runs().await?;
        limit_descriptors(pid, before)?;
        Ok(())
    }

    /// The clock set back an hour and on a year, under the daemon and between
    /// two of them.
    async fn clock(&mut self) -> Result<()> {
        let offset = self.scene.folder().join("offset");
        let environment = vec![
            ("LD_PRELOAD".into(), lab::packages::FAKETIME.into()),
            ("FAKETIME_TIMESTAMP_FILE".into(), offset.clone().into()),
            // What the daemon starts keeps the host's clock.
            ("FAKETIME_ONLY_CMDS".into(), "vmm-service".into()),
            ("FAKETIME_NO_CACHE".into(), "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ];
        set_clock(&offset, "+0")?;
        self.scene.stop_daemon().await?;
        self.start_daemon(environment.clone()).await?;
        for (set, hours) in [("-1h", -1), ("+1y", 365 * 24), ("+0", 0)] {
            set_clock(&offset, set)?;
            let started = succeeded(&self.client, self.client.start(&self.other).await?).await?;
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs().cast_signed();
            let off = (started.created_at.as_second() - now + 1800).div_euclid(3600);
            ensure!(off == hours, "the clock was to be set by {hours} h and is off by {off} h");
            succeeded(&self.client, self.client.kill(&self.other).await?).await?;
            self.web_runs().await?;
            self.scene.kill_daemon()?;
            self.start_daemon(environment.clone()).await?;
            self.web_runs().await?;
            let listed = self.scene.vmmctl(&["list"]).await?;
            ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        }
        self.scene.stop_daemon().await?;
        self.start_daemon(Vec::new()).await
    }

    /// After the fault everything works, and is remembered.
    async fn works(&mut self) -> Result<()> {
        self.web_runs().await?;
        succeeded(&self.client, self.client.start(&self.other).await?).await?;
        succeeded(&self.client, self.client.kill(&self.other).await?).await?;
        succeeded(&self.client, self.client.delete(&self.other).await?).await?;
        self.client.create(&self.bare(&self.other)?).await?;
        self.scene.kill_daemon()?;
        self.start_daemon(Vec::new()).await?;
        ensure!(self.client.vm(&self.other).await?.state == State::Created, "it was forgotten");
        self.web_runs().await
    }

    /// The machine runs in the same process, and its guest is heard.
    async fn web_runs(&self) -> Result<()> {
        let web = connected(&self.client, "web").await?;
        ensure!(web.state == State::Running && web.pid == self.web.pid, "{web:?}");
        facts_go_on(&self.client, "web").await
    }

    async fn start_daemon(
        &mut self,
        more: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<()> {
        let mut settings = self.settings.clone();
        settings.environment.extend(more);
        self.client = self.scene.start_daemon_with(settings).await?;
        Ok(())
    }

    /// A machine without a guest: its firmware finds nothing to boot.
    fn bare(&self, name: &str) -> Result<VmSpec> {
        let path = self.scene.folder().join("empty-disk");
        std::fs::File::create(&path)?.set_len(1 << 20)?;
        let disk =
            DiskSpec { path: path.display().to_string(), format: DiskFormat::Raw, read_only: true };
        let (kernel, initrd, cmdline) = (None, None, None);
        let spec = self.scene.spec(name);
        Ok(VmSpec { kernel, initrd, cmdline, memory_mib: 64, disks: vec![disk], ..spec })
    }
}

/// Sets what the preloaded clock adds to the host's.
fn set_clock(offset: &PathBuf, to: &str) -> Result<()> {
    // Renamed, so that nobody reads half of it; and readable by all, for QEMU
    // runs as somebody else.
    let scratch = offset.with_extension("new");
    std::fs::write(&scratch, format!("{to}\n"))?;
    std::fs::set_permissions(&scratch, Permissions::from_mode(0o644))?;
    std::fs::rename(scratch, offset)?;
    Ok(())
}

/// Limits how many descriptors a process may have, and tells the limit before.
fn limit_descriptors(pid: u32, limit: Option<u64>) -> Result<Option<u64>> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process")?;
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let before = prlimit(Some(process), Resource::Nofile, Rlimit { current: limit, maximum })?;
    Ok(before.current)
}

/// The processor time that a process has used.
fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(") ").context("no name in /proc")?;
    let mut ticks = 0.0;
    // utime and stime, the 14th and 15th fields of proc_pid_stat(5).
    for field in after.split(' ').skip(11).take(2) {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

async fn ended(client: &Client, operation: Operation) -> Result<Operation> {
    let ended = client.wait(operation, BLINK).await?;
    ensure!(ended.state != OperationState::Running, "{ended:?} did not end");
    Ok(ended)
}
