//! The daemon as a whole: everything is opened in [`App::build`], which can
//! fail; then it runs until it is told to go, and lets go of everything in
//! order. The VMs run on.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::config::{Config, StateUrl, WaitFor};
use crate::door;
use crate::events::EventBus;
use crate::guest::hub::Hub;
use crate::hypervisor::Hypervisor;
use crate::machines::{self, Machines};
use crate::store::{MemoryStore, SqliteStore, Store};
use crate::sys::{host, memory, process};
use crate::vm::registry::Registry;
use crate::vm::spec::Host;
use crate::vm::{Shared, autostart};

/// How long each part of the daemon may take to end. A start of a VM that is
/// under way is waited for, which QEMU may take 20 s to greet.
const DRAIN: Duration = Duration::from_secs(25);

/// The record of what was started by itself, beside the machines' folders: like
/// them it is of no use after the host's next boot.
const AUTOSTARTED: &str = "autostarted";

/// How soon a peer that did not answer is asked again, at first and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The daemon with everything open.
pub struct App {
    registry: Registry,
    hub: Hub,
    events: EventBus,
    store: Arc<dyn Store>,
    unix: UnixListener,
    tcp: TcpListener,
    socket: PathBuf,
    machines: Machines,
    /// What was started by itself in this boot of the host.
    autostarted: PathBuf,
    /// Held for as long as the daemon lives: nobody else uses its folders.
    _locks: Vec<door::Lock>,
}

impl App {
    /// Opens everything: locks, state, hypervisor, VMs, doors. Nothing is left
    /// behind when it fails.
    pub async fn build(config: &Config) -> Result<Self> {
        memory::return_large_blocks();
        if let Err(error) = host::raise_open_files() {
            tracing::warn!(%error, "The limit on open files could not be raised.");
        }
        let socket = config.api.socket.clone();
        let mut locks = vec![door::lock_socket(&socket)?];
        let state = match &config.state {
            StateUrl::Sqlite(path) => Some(path.as_path()),
            StateUrl::Memory => None,
        };
        if let Some(state) = state {
            locks.push(door::lock_state(state)?);
        }
        locks.extend(door::lock_machines(&config.qemu.vm_dir, state)?);
        if let Some(images) = &config.images_dir {
            tracing::debug!(folder = %images.display(), "Images are not published yet.");
        }
        wait_for(&config.wait_for).await?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, config.api.port))
            .await
            .with_context(|| format!("127.0.0.1:{} could not be opened", config.api.port))?;
        let store = open_store(&config.state).await?;
        let machines = machines::open(config).await?;
        refuse_lost_state(config, store.as_ref(), machines.hypervisor.as_ref()).await?;
        let events = EventBus::default();
        let hub = Hub::new(events.clone());
        let shared = Shared {
            store: Arc::clone(&store),
            hypervisor: Arc::clone(&machines.hypervisor),
            hub: hub.clone(),
            events: events.clone(),
            machine_type: machines.machine_type.clone(),
            default_kernel: config.kernel.as_ref().map(|path| path.display().to_string()),
            boot: process::boot_id().context("the host does not say which boot this is")?,
        };
        let host = Host { memory_mib: host::memory_mib(), processors: host::processors() };
        let registry =
            Registry::load(Arc::new(shared), host).await.context("the VMs could not be read")?;
        tell_open_files(host::open_files(), registry.len());
        let unix = door::bind(&socket)?;
        let autostarted = config.qemu.vm_dir.join(AUTOSTARTED);
        Ok(Self {
            registry,
            hub,
            events,
            store,
            unix,
            tcp,
            socket,
            machines,
            autostarted,
            _locks: locks,
        })
    }

    /// Serves until SIGTERM or SIGINT, then ends everything in order.
    pub async fn run(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM is not to be had")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT is not to be had")?;
        let closing = CancellationToken::new();
        let context = api::Context::new(
            self.registry.clone(),
            self.hub.clone(),
            self.events.clone(),
            closing.clone(),
        );
        let port = self.tcp.local_addr().context("the TCP door has no address")?.port();
        let mut doors = JoinSet::new();
        doors.spawn(api::serve_unix(self.unix, context, closing.clone()));
        doors.spawn(api::serve_tcp(self.tcp, closing.clone()));
        let vms = self.registry.len();
        tracing::info!(vms, socket = %self.socket.display(), port, "The daemon is ready.");
        notify(NotifyState::Ready);
        let starting = autostart(self.registry.clone(), self.autostarted, closing.clone());
        let starting = tokio::spawn(starting);
        let why = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(why, "The daemon goes down; the virtual machines run on.");
        notify(NotifyState::Stopping);
        self.events.close();
        closing.cancel();
        within("the doors", async { while doors.join_next().await.is_some() {} }).await;
        drop(doors);
        // Its requests end with the drivers at the latest.
        within("the VMs' autostart", async { drop(starting.await) }).await;
        within("the VMs' drivers", self.registry.close()).await;
        within("the guests' channels", self.hub.close()).await;
        self.machines.shutdown.cancel();
        self.machines.tasks.close();
        within("the machines' monitors", self.machines.tasks.wait()).await;
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "The socket was gone already.");
        }
        drop(self.registry);
        drop(self.store);
        tracing::info!("The daemon has ended.");
        Ok(())
    }
}

/// Starts what is to be started when the host has booted, and has systemd show
/// what came of it.
async fn autostart(registry: Registry, record: PathBuf, closing: CancellationToken) {
    let Some(outcome) = autostart::run(registry, record, closing).await else { return };
    let autostart::Outcome { started, failed } = outcome;
    tracing::info!(started, failed = failed.len(), "The VMs with autostart had their turn.");
    let mut status = format!("Started {started} VMs after the host's boot.");
    if !failed.is_empty() {
        status.push_str(&format!(" Not started: {}.", failed.join(", ")));
    }
    notify(NotifyState::Status(&status));
}

/// Who learns of the limit only when it is reached has guests that nobody hears.
fn tell_open_files(limit: u64, known: usize) {
    let (suffices_for, known) = (host::vms_with(limit), known as u64);
    if suffices_for >= known {
        tracing::info!(limit, suffices_for, "So many files may be open, for so many running VMs.");
        return;
    }
    let needed = host::open_files_for(known);
    tracing::warn!(
        limit,
        suffices_for,
        known,
        needed,
        "Too few files may be open for all known VMs to run at a time: give the daemon more \
         (LimitNOFILE= in its unit, or ulimit -Hn) and restart it."
    );
}

async fn within(who: &str, work: impl Future<Output = ()>) {
    let started = Instant::now();
    if timeout_at(started + DRAIN, work).await.is_err() {
        tracing::warn!(who, limit = ?DRAIN, "Somebody did not end in time and is left behind.");
    } else {
        tracing::debug!(who, took = ?started.elapsed(), "Ended.");
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told.");
    }
}

async fn open_store(url: &StateUrl) -> Result<Arc<dyn Store>> {
    let StateUrl::Sqlite(path) = url.clone() else {
        return Ok(Arc::new(MemoryStore::default()));
    };
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&path)).await;
    Ok(Arc::new(opened.context("opening the state panicked")??))
}

/// A state without VMs beside machines of ours was lost, or is not theirs:
/// whoever went on would run what he knows nothing of, and could start it twice.
async fn refuse_lost_state(
    config: &Config,
    store: &dyn Store,
    hypervisor: &dyn Hypervisor,
) -> Result<()> {
    let StateUrl::Sqlite(state) = &config.state else { return Ok(()) };
    if !store.vms().await.context("the VMs could not be read")?.is_empty() {
        return Ok(());
    }
    let machines = hypervisor.inventory().await.context("the machines could not be listed")?;
    let Some(first) = machines.first() else { return Ok(()) };
    bail!(
        "{} knows no VM, but {} holds {} of vmm-service's, {first} for one: the state was lost, or \
         is not theirs. Nothing was touched. Restore the state file from a backup, or name theirs \
         (VMM_STATE_URL). To begin with an empty state all the same, end those machines and \
         remove their folders, or name another folder (VMM_VM_DIR)",
        state.display(),
        config.qemu.vm_dir.display(),
        machines.len(),
    )
}

async fn wait_for(wait: &WaitFor) -> Result<()> {
    let until = Instant::now() + wait.limit;
    for peer in &wait.peers {
        tracing::info!(peer, "Waiting for a peer to answer.");
        let mut pause = ASK_AGAIN.0;
        loop {
            let why = match timeout_at(until, TcpStream::connect(peer)).await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it did not answer".to_owned(),
            };
            if Instant::now() + pause >= until {
                bail!("{peer} did not answer within {:?} (WAIT_FOR): {why}", wait.limit);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN.1);
        }
    }
    Ok(())
}
