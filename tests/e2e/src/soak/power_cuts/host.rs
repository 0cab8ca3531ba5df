//! The host whose power is cut: a Debian of the lab with the daemon's state on a
//! disk that loses what was not flushed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::accel::{self, Accelerator};
use lab::debian::{self, File};
use lab::program::{output, tail};
use lab::qemu::{self, Guest};
use lab::volatile_disk::{Cut, Disk, Plug};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::relay::{self, Answer, Ask, Outcome, Question};
use crate::scene::Scene;
use crate::wait::until;

/// Enough for Debian, the daemon and a few machines without a guest.
const MEMORY: &str = "1024M";
/// One for the daemon, one for its machines.
const VCPUS: &str = "2";
/// The size of the state's disk, in bytes: it is held in memory.
const STATE_SIZE: u64 = 64 << 20;
/// How long the host may take from nothing to its daemon: 8 s on an idle
/// machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What PID 1 of the host is, and where.
const INIT: (&str, &str) = ("/usr/sbin/init-power-cuts", include_str!("init"));
/// What [`INIT`] says when the daemon ends.
const DAEMON_ENDED: &str = "vmm-service ended with";
/// The disk of the VMs, on the host. Nothing boots from it.
pub const VM_DISK: &str = "/srv/disk.img";

/// What all boots of the host share.
pub struct Parts {
    kernel: PathBuf,
    initrd: PathBuf,
    root: PathBuf,
    accelerator: Accelerator,
    folder: PathBuf,
}

impl Parts {
    /// Makes them. Blocks.
    pub fn make(scene: &Scene) -> Result<Self> {
        let (tree, stage) = (lab::Tree::locate()?, scene.stage());
        let folder = scene.folder().to_owned();
        let (root, initrd) = (folder.join("root"), folder.join("host-initrd"));
        debian::disk(&debian::obtain(&tree, &|line| println!("{line}"))?, &root)?;
        let empty = folder.join("empty");
        std::fs::File::create(&empty)?.set_len(1 << 20)?;
        let files = [
            File::script(INIT.0, INIT.1),
            File::program("/usr/bin/vmm-service", &stage.programs.daemon),
            File::program("/usr/bin/vmmctl", &stage.programs.vmmctl),
            File::program("/usr/bin/e2e", &std::env::current_exe()?),
            File::copy(VM_DISK, &empty),
        ];
        debian::initrd(&stage.kernel, &files, &initrd)?;
        let accelerator = accel::find(&tree, &stage.programs.daemon)?;
        Ok(Self { kernel: stage.kernel.image.clone(), initrd, root, accelerator, folder })
    }

    /// An empty file system for the daemon's state. Blocks.
    pub fn state_disk(&self) -> Result<Disk> {
        let image = self.folder.join("state");
        std::fs::File::create(&image)?.set_len(STATE_SIZE)?;
        // Nothing is left to be initialised while the power may go.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        output(Command::new("mkfs.ext4").args(["-q", "-F", "-E", now]).arg(&image))?;
        Ok(Disk::new(std::fs::read(&image)?))
    }

    fn command(&self, state: &Path, folder: &Path) -> Command {
        let init = format!("init={}", INIT.0);
        let boot = qemu::Boot {
            kernel: &self.kernel,
            initrd: &self.initrd,
            options: &init,
            accelerator: self.accelerator,
            network: false,
            disk: Some(&self.root),
            ports: &[relay::PORT],
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(qemu::arguments(&boot, folder));
        // Of an option that comes twice the last one holds.
        command.args(["-smp", VCPUS, "-m", MEMORY]);
        let path = state.display();
        let disk = format!("driver=nbd,node-name=state,server.type=unix,server.path={path}");
        command.args(["-blockdev", &disk, "-device", "virtio-blk-pci,drive=state"]);
        command
    }
}

/// A host that runs.
pub struct Host {
    guest: Guest,
    plug: Plug,
    link: Arc<Link>,
    reader: JoinHandle<()>,
}

impl Host {
    /// Switches it on, and waits until something runs in it.
    pub async fn switch_on(parts: &Parts, state: &Disk) -> Result<Self> {
        let socket = parts.folder.join("state.sock");
        let folder = parts.folder.join("host");
        std::fs::create_dir_all(&folder)?;
        let plug = state.plug(&socket)?;
        let port = folder.join(relay::PORT);
        // That of the boot before is nobody's.
        let _ = std::fs::remove_file(&port);
        let guest = Guest::spawn(parts.command(&socket, &folder), &folder)?;
        let connected = until("QEMU's socket", BOOT_LIMIT, || async {
            Ok(UnixStream::connect(&port).await.ok())
        });
        let (from, to) = connected.await?.into_split();
        let (link, ready) = Link::new(to);
        let link = Arc::new(link);
        let reader = tokio::spawn(read(from, Arc::clone(&link)));
        let host = Self { guest, plug, link, reader };
        match tokio::time::timeout(BOOT_LIMIT, ready).await {
            Ok(Ok(_ready)) => Ok(host),
            _ => bail!("the host did not boot; its console ends with:\n{}", host.last_words()),
        }
    }

    /// Waits until the daemon answers.
    pub async fn daemon(&self) -> Result<()> {
        let healthy = until("an answer of the host's daemon", BOOT_LIMIT, || async {
            ensure!(!self.guest.console().contains(DAEMON_ENDED), "the host's daemon has ended");
            let health = self.link.daemon("GET", "/health", None, None).await;
            Ok(health.is_ok().then_some(()))
        });
        healthy.await.with_context(|| self.last_words())
    }

    /// The way to its daemon.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The end of the console, where the daemon's log is, too.
    pub fn last_words(&self) -> String {
        tail(self.guest.console().as_bytes())
    }

    /// Cuts the power. What the daemon had answered until then has come through
    /// the link when this returns; what is asked later gets no answer.
    pub async fn cut(self, state: &Disk, random: &mut fastrand::Rng) -> Result<Cut> {
        let Self { guest, plug, link: _, reader } = self;
        // At once, one after the other: what QEMU's end leaves time for would
        // still be flushed, and a QEMU that lost its disk would answer errors.
        let pid = i32::try_from(guest.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("QEMU has no process id")?, Signal::KILL)?;
        drop(plug);
        drop(guest);
        reader.await?;
        Ok(state.cut(random))
    }
}

/// Questions to the host, and their answers.
pub struct Link {
    to: tokio::sync::Mutex<OwnedWriteHalf>,
    /// Nothing once the host is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Outcome>>>>,
    next: AtomicU64,
}

/// Why there was no good answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The power went before.
    Cut,
    /// The daemon refused, or something else is wrong.
    Wrong(anyhow::Error),
}

impl Link {
    fn new(to: OwnedWriteHalf) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, ready) = oneshot::channel();
        let waiting = Mutex::new(Some(HashMap::from([(0, sender)])));
        (Self { to: to.into(), waiting, next: AtomicU64::new(1) }, ready)
    }

    /// Asks the daemon and decodes its answer, which must be a success.
    pub async fn daemon(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> Result<Value, NoAnswer> {
        let (method, path) = (method.to_owned(), path.to_owned());
        let what = format!("{method} {path}");
        match self.ask(Ask::Daemon { method, path, key: key.map(str::to_owned), body }).await? {
            Outcome::Daemon { status: 200..300, body } => Ok(body),
            other => Err(NoAnswer::Wrong(anyhow!("{what}: {other:?}"))),
        }
    }

    /// Runs a script and gives its output.
    pub async fn run(&self, script: &str) -> Result<String, NoAnswer> {
        match self.ask(Ask::Run(script.to_owned())).await? {
            Outcome::Ran(output) => Ok(output),
            other => Err(NoAnswer::Wrong(anyhow!("{script}: {other:?}"))),
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Outcome, NoAnswer> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().as_mut().ok_or(NoAnswer::Cut)?.insert(number, sender);
        let wrong = |error: serde_json::Error| NoAnswer::Wrong(error.into());
        let mut line = serde_json::to_vec(&Question { number, ask }).map_err(wrong)?;
        line.push(b'\n');
        let sent = self.to.lock().await.write_all(&line).await;
        sent.map_err(|_broken| NoAnswer::Cut)?;
        answer.await.map_err(|_gone| NoAnswer::Cut)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NoAnswer {
    /// Outside of a cut, a host that is gone is an error like others.
    pub fn error(self) -> anyhow::Error {
        match self {
            Self::Cut => anyhow!("the host is gone"),
            Self::Wrong(error) => error,
        }
    }
}

/// Decodes an answer.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T> {
    let shown = value.to_string();
    serde_json::from_value(value).with_context(|| format!("of another shape: {shown}"))
}

/// Hands answers to those who asked, until the host is gone. A line that broke
/// off with it is no answer.
async fn read(from: OwnedReadHalf, link: Arc<Link>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
        if let Ok(answer) = serde_json::from_slice::<Answer>(&line)
            && line.ends_with(b"\n")
            && let Some(waiting) = link.waiting().as_mut()
            && let Some(asked) = waiting.remove(&answer.number)
        {
            // Whoever asked may have given up.
            let _ = asked.send(answer.outcome);
        }
        line.clear();
    }
    link.waiting().take();
}
