//! One task per machine: the only client of its monitor, and the one who sees
//! the machine and its keeper end.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::super::{Exit, MachineError, MachineEvent, RunState};
use super::command_line::{AGENT_CHARDEV, AGENT_DEVICE};
use super::keeper_process;
use super::machine::{Request, run_state};
use super::qmp::{Connection, Incoming, QmpError};
use crate::keeper::records::{self, ExitRecord, Report};
use crate::sys::process::{Pidfd, Watch};

/// How many commands may await their answers. A QEMU that answers none gets no
/// more, so that writing to its socket never waits.
const MOST_PENDING: usize = 16;

/// How long QEMU may live on after it closed its monitor before that counts as
/// a lost monitor: it closes it a moment before it ends.
const ENDING: Duration = Duration::from_secs(1);

/// How long a keeper may take to write down how QEMU ended.
pub(super) const LAST_RECORD: Duration = Duration::from_secs(5);

/// How many lines a monitor may say between two looks at it. A machine's whole
/// life takes some dozens; a guest can make QEMU say more, as by panicking again
/// and again, and must not keep this task busy with that.
const MOST_LINES: u32 = 1000;

/// How many lines a command of ours may bring without being counted: its answer
/// and what it makes happen. Somebody who pauses and resumes a VM as fast as it
/// goes is no flood of the guest's.
const LINES_OF_A_COMMAND: u32 = 4;

/// How long a command may take to be written. The socket holds thousands, so
/// one that is full is not read any more.
const WRITING: Duration = Duration::from_secs(1);

/// How much of a name that QEMU tells is shown, in characters.
const LONGEST_NAME: usize = 32;

/// What happened in the monitor's last moments is read for so long.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// How often things are looked at, and how long silence may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How often the monitor is asked for its status.
    pub(super) ping: Duration,
    /// How long it may leave that unanswered.
    pub(super) silence: Duration,
    /// How long connecting and greeting may take.
    pub(super) handshake: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // Often enough that an operator learns of a hanging machine within
            // seconds; a thousand machines make 200 small questions a second.
            ping: Duration::from_secs(5),
            // Longer than a host's worst swapping or a slow disk's flush.
            silence: Duration::from_secs(10),
            handshake: Duration::from_secs(5),
        }
    }
}

/// What a monitor begins with.
pub(super) struct Setup {
    pub(super) id: Uuid,
    pub(super) dir: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) connection: Option<Connection>,
    pub(super) state: RunState,
    pub(super) qemu: Pidfd,
    /// `None` when it is known to be dead.
    pub(super) keeper: Option<Pidfd>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) events: mpsc::Sender<MachineEvent>,
    pub(super) timing: Timing,
}

/// The task's state.
pub(super) struct Monitor {
    id: Uuid,
    dir: PathBuf,
    socket: PathBuf,
    connection: Option<Connection>,
    /// A command could not be written, or only half of it: none follows it on
    /// this connection, which is listened to until the next tick.
    is_cut: bool,
    state: RunState,
    agent_port: Option<bool>,
    /// Whether the guest's panic was told since its last reset.
    panicked: bool,
    /// How many lines came since the last tick.
    lines: u32,
    qemu: Watch,
    keeper: Option<Watch>,
    keeper_is_lost: bool,
    requests: mpsc::Receiver<Request>,
    requests_ended: bool,
    events: mpsc::Sender<MachineEvent>,
    timing: Timing,
    pending: HashMap<u64, Pending>,
    next_id: u64,
    /// Since when a question about the status has had no answer, and since when
    /// nothing at all has come.
    asked: Option<Instant>,
    heard: Instant,
    is_lost: bool,
    shutdown: CancellationToken,
}

enum Pending {
    Request(Request),
    Ping,
    Chardevs,
}

impl Pending {
    fn refuse(self, why: &str) {
        if let Self::Request(request) = self {
            let refused =
                MachineError::Refused { command: request.command.into(), desc: why.into() };
            // Who asked may have given up.
            let _ = request.answer.send(Err(refused));
        }
    }
}

/// The driver let go of the machine: there is nobody to tell anything.
struct NobodyListens;

type Told = Result<(), NobodyListens>;

enum Step {
    Said(Result<Incoming, QmpError>),
    Asked(Option<Request>),
    QemuEnded,
    KeeperEnded,
    Tick,
    Stop,
}

impl Monitor {
    /// Takes hold of everything in `setup`.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch the processes.
    pub(super) fn new(setup: Setup) -> io::Result<Self> {
        Ok(Self {
            id: setup.id,
            dir: setup.dir,
            socket: setup.socket,
            connection: setup.connection,
            is_cut: false,
            state: setup.state,
            agent_port: None,
            panicked: false,
            lines: 0,
            qemu: setup.qemu.watch()?,
            keeper: setup.keeper.map(Pidfd::watch).transpose()?,
            keeper_is_lost: false,
            requests: setup.requests,
            requests_ended: false,
            events: setup.events,
            timing: setup.timing,
            pending: HashMap::new(),
            next_id: 1,
            asked: None,
            heard: Instant::now(),
            is_lost: false,
            shutdown: CancellationToken::new(),
        })
    }

    /// Runs until the machine has ended, the driver has let go of it, or the
    /// daemon shuts down; the machine runs on in the last two.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        self.shutdown = shutdown;
        let mut ticks = interval(self.timing.ping);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.connection.is_some() {
            self.ask(Pending::Chardevs, "query-chardev").await;
        }
        loop {
            let step = self.next_step(&mut ticks).await;
            let told = match step {
                Step::Stop => return,
                Step::QemuEnded => return self.finish().await,
                Step::KeeperEnded => self.replace_keeper().await,
                Step::Tick => self.tick().await,
                Step::Asked(Some(request)) => {
                    let command = request.command;
                    self.ask(Pending::Request(request), command).await;
                    Ok(())
                }
                Step::Asked(None) => {
                    self.requests_ended = true;
                    Ok(())
                }
                Step::Said(Ok(incoming)) => self.hear(incoming).await,
                Step::Said(Err(error)) => self.disconnected(&error).await,
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn next_step(&mut self, ticks: &mut tokio::time::Interval) -> Step {
        // In this order: a QEMU that never stops talking holds up nothing else.
        // What it said before its end is heard at its end.
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Step::Stop,
            () = self.events.closed() => Step::Stop,
            () = self.qemu.ended() => Step::QemuEnded,
            () = ended(self.keeper.as_ref()) => Step::KeeperEnded,
            _ = ticks.tick() => Step::Tick,
            request = self.requests.recv(), if !self.requests_ended => Step::Asked(request),
            said = hear_from(self.connection.as_mut()) => Step::Said(said),
        }
    }

    async fn tick(&mut self) -> Told {
        self.lines = 0;
        if self.keeper.is_none() {
            self.replace_keeper().await?;
        }
        if self.is_cut {
            self.hang_up();
        }
        if self.connection.is_none() {
            return self.reconnect().await;
        }
        match self.asked {
            Some(since) if since.elapsed() >= self.timing.silence && self.heard < since => {
                let seconds = self.timing.silence.as_secs();
                self.lose(format!("the monitor has not answered for {seconds} s")).await
            }
            Some(_) => Ok(()),
            None => {
                self.asked = Some(Instant::now());
                self.ask(Pending::Ping, "query-status").await;
                Ok(())
            }
        }
    }

    async fn ask(&mut self, pending: Pending, command: &'static str) {
        self.pending.retain(|_, pending| !matches!(pending, Pending::Request(request) if request.answer.is_closed()));
        let connection = match self.connection.as_mut() {
            Some(_) if self.is_cut => return pending.refuse("it takes no commands any more"),
            Some(connection) if self.pending.len() < MOST_PENDING => connection,
            Some(_) => return pending.refuse("too many commands wait for it already"),
            None => return pending.refuse("it is not connected"),
        };
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, pending);
        self.lines = self.lines.saturating_sub(LINES_OF_A_COMMAND);
        let sent = timeout(WRITING, connection.send(id, command, Value::Null)).await;
        if !matches!(sent, Ok(Ok(()))) {
            // A QEMU that ends may have said why before: that is still there.
            self.is_cut = true;
            self.asked = None;
            self.pending.clear();
        }
    }

    fn hang_up(&mut self) {
        self.connection = None;
        self.is_cut = false;
        self.asked = None;
        self.pending.clear();
    }

    async fn hear(&mut self, incoming: Incoming) -> Told {
        self.heard = Instant::now();
        self.lines += 1;
        if self.lines > MOST_LINES {
            self.hang_up();
            return self
                .lose(format!("the monitor said more than {MOST_LINES} lines at once"))
                .await;
        }
        if self.is_lost {
            self.is_lost = false;
            info!(vm = %self.id, "The machine's monitor answers again.");
            self.tell(MachineEvent::MonitorBack).await?;
        }
        match incoming {
            Incoming::Event { name, data } => self.event(&name, &data).await,
            Incoming::Answer(id, answer) => match self.pending.remove(&id) {
                Some(Pending::Request(request)) => {
                    let command = request.command.to_owned();
                    let answer = answer.map_err(|desc| MachineError::Refused { command, desc });
                    // Who asked may have given up.
                    let _ = request.answer.send(answer);
                    Ok(())
                }
                Some(Pending::Ping) => {
                    self.asked = None;
                    match answer {
                        Ok(status) => self.now(run_state(&status)).await,
                        Err(_) => Ok(()),
                    }
                }
                Some(Pending::Chardevs) => match agent_port(&answer.unwrap_or_default()) {
                    Some(open) => self.port(open).await,
                    None => Ok(()),
                },
                None => Ok(()),
            },
        }
    }

    async fn event(&mut self, name: &str, data: &Value) -> Told {
        match name {
            "STOP" => self.now(RunState::Paused).await,
            "RESUME" => self.now(RunState::Running).await,
            "RESET" => {
                self.panicked = false;
                self.tell(MachineEvent::Reset).await
            }
            "SHUTDOWN" => self.tell(MachineEvent::PoweringOff).await,
            "GUEST_PANICKED" if std::mem::replace(&mut self.panicked, true) => Ok(()),
            "GUEST_PANICKED" => self.tell(MachineEvent::Panicked).await,
            "VSERPORT_CHANGE" if data["id"] == AGENT_DEVICE => match data["open"].as_bool() {
                Some(open) => self.port(open).await,
                None => Ok(()),
            },
            "NETDEV_STREAM_DISCONNECTED" => {
                let interface = data["netdev-id"].as_str().unwrap_or_default();
                let interface: String = interface.chars().take(LONGEST_NAME).collect();
                warn!(
                    vm = %self.id, interface = %interface.escape_debug(),
                    "The machine's passt ended; this interface is silent until the VM is stopped \
                     and started."
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn port(&mut self, open: bool) -> Told {
        if self.agent_port.replace(open) == Some(open) {
            return Ok(());
        }
        self.tell(MachineEvent::AgentPort(open)).await
    }

    /// Told once for each change, whether it was an event or an answer that
    /// brought it.
    async fn now(&mut self, state: RunState) -> Told {
        if std::mem::replace(&mut self.state, state) == state {
            return Ok(());
        }
        self.tell(match state {
            RunState::Running => MachineEvent::Resumed,
            RunState::Paused => MachineEvent::Paused,
        })
        .await
    }

    async fn disconnected(&mut self, error: &QmpError) -> Told {
        self.hang_up();
        if timeout(ENDING, self.qemu.ended()).await.is_ok() {
            // The loop finds it ended.
            return Ok(());
        }
        self.lose(error.to_string()).await
    }

    async fn lose(&mut self, why: String) -> Told {
        if std::mem::replace(&mut self.is_lost, true) {
            return Ok(());
        }
        warn!(vm = %self.id, why, "The machine's monitor is lost; the machine may run on.");
        self.tell(MachineEvent::MonitorLost(why)).await
    }

    async fn reconnect(&mut self) -> Told {
        let opening = timeout(self.timing.handshake, Connection::open(&self.socket));
        let opened = tokio::select! {
            opened = opening => opened,
            // The loop sees each of these next.
            () = self.qemu.ended() => return Ok(()),
            () = self.shutdown.cancelled() => return Ok(()),
        };
        match opened {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                self.ask(Pending::Ping, "query-status").await;
                self.ask(Pending::Chardevs, "query-chardev").await;
                self.asked = Some(Instant::now());
                Ok(())
            }
            Ok(Err(error)) => self.lose(error.to_string()).await,
            Err(_) => self.lose("the monitor does not greet".into()).await,
        }
    }

    async fn replace_keeper(&mut self) -> Told {
        if let Some(keeper) = self.keeper.take() {
            keeper.pidfd().reap();
        }
        if matches!(self.qemu.pidfd().has_ended(), Ok(true)) {
            // It ended because QEMU did; the loop finds that next.
            return Ok(());
        }
        if !std::mem::replace(&mut self.keeper_is_lost, true) {
            warn!(vm = %self.id, "The machine's keeper died; the machine runs on, and gets a new one.");
            self.tell(MachineEvent::KeeperLost).await?;
        }
        match resume_keeper(self.dir.clone(), self.id).await.and_then(Pidfd::watch) {
            Ok(keeper) => {
                self.keeper = Some(keeper);
                self.keeper_is_lost = false;
                info!(vm = %self.id, "A new keeper watches the machine.");
                self.tell(MachineEvent::KeeperBack).await
            }
            Err(error) => {
                // The next tick tries again.
                warn!(vm = %self.id, %error, "No new keeper could be started.");
                Ok(())
            }
        }
    }

    /// The machine has ended: says all that is left to say.
    async fn finish(mut self) {
        if let Some(mut connection) = self.connection.take() {
            let deadline = Instant::now() + LAST_EVENTS;
            while let Ok(Ok(incoming)) = tokio::time::timeout_at(deadline, connection.next()).await
            {
                if self.hear(incoming).await.is_err() {
                    break;
                }
            }
        }
        self.pending.clear();
        let exit = how_it_ended(&self.dir, self.keeper.as_ref()).await;
        // Nobody listens when the driver has let go already.
        let _ = self.tell(MachineEvent::Exited(exit)).await;
    }

    async fn tell(&self, event: MachineEvent) -> Told {
        self.events.send(event).await.map_err(|_| NobodyListens)
    }
}

/// How the machine in `dir` ended, once its keeper has written it down.
pub(super) async fn how_it_ended(dir: &std::path::Path, keeper: Option<&Watch>) -> Exit {
    if let Some(keeper) = keeper
        && timeout(LAST_RECORD, keeper.ended()).await.is_ok()
    {
        keeper.pidfd().reap();
    }
    recorded_exit(dir).unwrap_or(Exit::Unseen)
}

/// The exit that a keeper wrote down, if one did.
pub(super) fn recorded_exit(dir: &std::path::Path) -> Option<Exit> {
    let record: ExitRecord = records::read(dir, records::EXIT).ok().flatten()?;
    Some(match record {
        ExitRecord { status: Some(status), .. } => Exit::Status(status),
        ExitRecord { signal: Some(signal), .. } => Exit::Signal(signal),
        ExitRecord { status: None, signal: None } => Exit::Unseen,
    })
}

/// Starts a keeper that takes over from a dead one.
pub(super) async fn resume_keeper(dir: PathBuf, id: Uuid) -> io::Result<Pidfd> {
    let started = tokio::task::spawn_blocking(move || {
        keeper_process::launch(&dir, &format!("{id}-resumed"), true)
    });
    match started.await.map_err(io::Error::other)?? {
        (keeper, Report::Runs { .. }) => Ok(keeper),
        (_, Report::Failed { message, .. }) => Err(io::Error::other(message)),
    }
}

async fn hear_from(connection: Option<&mut Connection>) -> Result<Incoming, QmpError> {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

async fn ended(keeper: Option<&Watch>) {
    match keeper {
        Some(keeper) => keeper.ended().await,
        None => std::future::pending().await,
    }
}

/// Whether the guest has the agent's port open, from `query-chardev`.
fn agent_port(answer: &Value) -> Option<bool> {
    let port = answer.as_array()?.iter().find(|chardev| chardev["label"] == AGENT_CHARDEV)?;
    port["frontend-open"].as_bool()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{UnixListener, UnixStream};

    use super::super::super::contract::SOON;
    use super::*;

    /// Between two looks, where a test waits for what they find.
    const OFTEN: Duration = Duration::from_millis(20);

    /// A monitor that answers `count` commands, the handshake among them, and
    /// says that the machine is paused.
    async fn answer(stream: &mut BufReader<UnixStream>, count: usize) {
        stream.write_all(b"{\"QMP\": {}}\n").await.unwrap();
        for _ in 0..count {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap() == 0 {
                return;
            }
            let command: Value = serde_json::from_str(&line).unwrap();
            let value = match command["execute"].as_str().unwrap() {
                "query-status" => json!({ "running": false }),
                "query-chardev" => json!([{ "label": AGENT_CHARDEV, "frontend-open": true }]),
                _ => json!({}),
            };
            let answer = json!({ "return": value, "id": command["id"] });
            stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }

    /// Without a keeper and not connected yet to `qmp.sock` in `dir`.
    fn setup(
        dir: &std::path::Path,
        qemu: u32,
        requests: mpsc::Receiver<Request>,
        events: mpsc::Sender<MachineEvent>,
    ) -> Setup {
        Setup {
            id: Uuid::nil(),
            dir: dir.to_owned(),
            socket: dir.join("qmp.sock"),
            connection: None,
            state: RunState::Running,
            qemu: Pidfd::open(qemu).unwrap().unwrap(),
            keeper: None,
            requests,
            events,
            timing: Timing { ping: OFTEN, silence: SOON, handshake: SOON },
        }
    }

    // host-vmm.md 1.5: "QMP reconnect loop without cancel; no listener on
    // reconnect failure".
    #[tokio::test]
    async fn a_monitor_that_is_being_connected_again_ends_with_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        let mut qemu = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        for greets in [false, true] {
            let (_requests, requests) = mpsc::channel(1);
            let (events, mut heard) = mpsc::channel(64);
            // One that takes a connection and says nothing, for ever.
            let listener = greets.then(|| UnixListener::bind(&socket).unwrap());
            let monitor = Monitor::new(Setup {
                timing: Timing { ping: OFTEN, silence: SOON, handshake: 60 * SOON },
                ..setup(dir.path(), qemu.id(), requests, events)
            });
            let shutdown = CancellationToken::new();
            let task = tokio::spawn(monitor.unwrap().run(shutdown.clone()));
            let told = async {
                if let Some(listener) = &listener {
                    return Some(listener.accept().await.unwrap());
                }
                // Nobody listens: that is told, and tried again.
                while !matches!(heard.recv().await, Some(MachineEvent::MonitorLost(_))) {}
                None
            };
            let _held = timeout(SOON, told).await.unwrap();
            shutdown.cancel();
            timeout(SOON, task).await.expect("it ends with the daemon").unwrap();
        }
        qemu.kill().unwrap();
        qemu.wait().unwrap();
    }

    #[tokio::test]
    async fn what_was_said_before_a_command_could_not_be_written_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut qemu = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let opening = tokio::spawn(async move { Connection::open(&socket).await });
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        answer(&mut stream, 1).await;
        let connection = opening.await.unwrap().unwrap();
        // As a guest does that powers itself off at once.
        stream.write_all(b"{\"event\": \"SHUTDOWN\", \"data\": {}}\n").await.unwrap();
        drop(stream);
        let (_requests, requests) = mpsc::channel(1);
        let (events, mut heard) = mpsc::channel(64);
        let monitor = Monitor::new(Setup {
            socket: dir.path().join("none"),
            connection: Some(connection),
            timing: Timing { ping: SOON, silence: SOON, handshake: SOON },
            ..setup(dir.path(), qemu.id(), requests, events)
        });
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(monitor.unwrap().run(shutdown.clone()));
        let powers_off = async { while heard.recv().await != Some(MachineEvent::PoweringOff) {} };
        timeout(SOON, powers_off).await.unwrap();
        shutdown.cancel();
        task.await.unwrap();
        qemu.kill().unwrap();
        qemu.wait().unwrap();
    }

    #[tokio::test]
    async fn a_monitor_that_closed_or_went_mad_is_connected_again() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut qemu = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let (_requests, requests) = mpsc::channel(1);
        let (events, mut heard) = mpsc::channel(64);
        let monitor = Monitor::new(setup(dir.path(), qemu.id(), requests, events));
        let task = tokio::spawn(monitor.unwrap().run(CancellationToken::new()));
        let mut next = async || timeout(SOON, heard.recv()).await.unwrap();

        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        answer(&mut stream, 3).await;
        // There is no keeper to be had in this folder, which is told once.
        assert_eq!(next().await, Some(MachineEvent::KeeperLost));
        assert_eq!(next().await, Some(MachineEvent::Paused));
        assert_eq!(next().await, Some(MachineEvent::AgentPort(true)));
        drop(stream);
        assert!(matches!(next().await, Some(MachineEvent::MonitorLost(_))));

        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        answer(&mut stream, 3).await;
        assert_eq!(next().await, Some(MachineEvent::MonitorBack));
        stream.write_all(b"\x1b[2J no JSON\n").await.unwrap();
        assert!(matches!(next().await, Some(MachineEvent::MonitorLost(_))));

        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        answer(&mut stream, 3).await;
        assert_eq!(next().await, Some(MachineEvent::MonitorBack));
        let flood = tokio::spawn(async move {
            while stream.write_all(b"{\"event\": \"GUEST_PANICKED\"}\n").await.is_ok() {}
        });
        // Told once, however often it is said.
        assert_eq!(next().await, Some(MachineEvent::Panicked));
        assert!(matches!(next().await, Some(MachineEvent::MonitorLost(_))));
        flood.await.unwrap();

        qemu.kill().unwrap();
        assert_eq!(next().await, Some(MachineEvent::Exited(Exit::Unseen)));
        assert_eq!(next().await, None);
        task.await.unwrap();
        qemu.wait().unwrap();
    }
}
