//! The channel to the host: finds and opens it, speaks one session after
//! another over it, and waits without spinning while nobody is there.

mod back_off;
mod budget;
mod outbox;
mod report;
mod session;

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use guest_protocol::facts::Facts;
use guest_protocol::message::Lifecycle;
use serde_json::Value;

pub use session::Effect;

use super::Publisher;
use crate::command::{self, Commands};
use crate::identity::Identity;
use crate::sys::listen::Listener;
use crate::sys::port::{self, AbsentHost, OpenError, Port, Room};
use back_off::BackOff;
use session::Session;

/// How much is read at once, in bytes: a request is far shorter, and a long
/// one is put together in the decoder.
const READ_BYTES: usize = 4 * 1024;

/// Where the channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The virtio-serial port of that name.
    VirtioSerial(String),
    /// The port at that path.
    Device(PathBuf),
    /// A unix socket that the agent listens on.
    Listen(PathBuf),
}

/// How far the channel is open.
#[derive(Debug)]
enum Link {
    /// Not at all.
    Closed,
    /// A session runs.
    Open { port: Port, session: Session },
    /// The port is open and nobody is at its other end.
    HostAway { absent: AbsentHost, session: Session },
}

/// What waiting at an open port came to.
enum Waited {
    Read(port::Read),
    Writable(Room),
    /// The budget has something again.
    Rested,
}

/// The channel to the host.
#[derive(Debug)]
pub struct Channel {
    transport: Transport,
    listener: Option<Listener>,
    identity: Identity,
    commands: Commands,
    link: Link,
    back_off: BackOff,
    /// Why the channel could not be opened, as it was last logged.
    last_failure: Option<String>,
    newest: Option<Value>,
    stages: Vec<Lifecycle>,
    buffer: Box<[u8; READ_BYTES]>,
}

impl Publisher for Channel {
    fn publish(&mut self, facts: &Facts) -> io::Result<()> {
        self.newest = Some(serde_json::to_value(facts)?);
        if let Some(session) = self.session() {
            session.facts_changed();
        }
        Ok(())
    }
}

impl Channel {
    /// A channel that is not open yet.
    pub fn new(transport: Transport, identity: Identity, commands: Commands) -> Self {
        Self {
            transport,
            listener: None,
            identity,
            commands,
            link: Link::Closed,
            back_off: BackOff::default(),
            last_failure: None,
            newest: None,
            stages: Vec::new(),
            buffer: Box::new([0; READ_BYTES]),
        }
    }

    /// Takes the stages that the guest has reached. Each host session is told
    /// all of them.
    pub fn tell_stages(&mut self, stages: &[Lifecycle]) {
        if self.stages != stages {
            self.stages = stages.to_vec();
        }
    }

    /// Listens, where the transport is to listen: a socket that cannot be bound
    /// is told at once.
    pub fn bind(&mut self) -> io::Result<()> {
        if let (Transport::Listen(path), None) = (&self.transport, &self.listener) {
            self.listener = Some(Listener::bind(path)?);
            tracing::info!(path = %path.display(), "Hosts may connect.");
        }
        Ok(())
    }

    /// When the channel has something to do although nothing comes in.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.link {
            Link::Open { session, .. } => session.deadline(),
            Link::Closed | Link::HostAway { .. } => None,
        }
    }

    /// Carries the conversation on until the agent has to do something: `None`
    /// means to ask for the deadline again. May be given up at any moment.
    pub async fn converse(&mut self) -> Option<Effect> {
        loop {
            match self.link {
                Link::Closed => self.open().await,
                Link::HostAway { .. } => self.await_host().await,
                Link::Open { .. } => match self.exchange().await {
                    Ok(effect) => return effect,
                    Err(error) => {
                        tracing::info!(%error, "The channel broke and is opened again.");
                        self.link = Link::Closed;
                        self.rest().await;
                    }
                },
            }
        }
    }

    /// Writes everything that the host should know before the end, if there is
    /// a host. The caller sets the deadline.
    pub async fn drain(&mut self) -> io::Result<()> {
        let Link::Open { port, session } = &mut self.link else { return Ok(()) };
        while session.is_confirmed() {
            session.speak(None, &self.stages, Instant::now());
            flush(port, session)?;
            if session.has_told(&self.stages) {
                break;
            }
            if !session.outbox().is_empty() && port.writable().await? == Room::HostAway {
                break;
            }
        }
        Ok(())
    }

    /// Answers the request of that id that it failed after all.
    pub fn fail(&mut self, id: Option<Value>, reason: String) {
        if let Some(session) = self.session() {
            session.fail(id, command::failed(reason));
        }
    }

    fn session(&mut self) -> Option<&mut Session> {
        match &mut self.link {
            Link::Closed => None,
            Link::Open { session, .. } | Link::HostAway { session, .. } => Some(session),
        }
    }

    async fn open(&mut self) {
        let opened = match (&self.transport, &self.listener) {
            (Transport::VirtioSerial(name), _) => port::find(name).and_then(|it| Port::open(&it)),
            (Transport::Device(path), _) => Port::open(path),
            (Transport::Listen(path), Some(listener)) => {
                let refused = |source| OpenError::Refused { path: path.clone(), source };
                listener.accept().await.map_err(refused)
            }
            (Transport::Listen(_), None) => match self.bind() {
                Ok(()) => return,
                Err(error) => return self.tell_failure(&error).await,
            },
        };
        let port = match opened {
            Ok(port) => port,
            Err(error) => return self.tell_failure(&error).await,
        };
        self.last_failure = None;
        tracing::info!("The channel is open.");
        let after_others = port.survives_its_host();
        let session = Session::begin(&self.identity, &self.commands, after_others, Instant::now());
        self.link = Link::Open { port, session };
    }

    async fn tell_failure(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        let cause = error.source().map(|it| format!(": {it}")).unwrap_or_default();
        let failure = format!("{error}{cause}");
        if self.last_failure.as_ref() != Some(&failure) {
            tracing::warn!(reason = %failure, "There is no channel yet; it is tried again.");
            self.last_failure = Some(failure);
        }
        self.rest().await;
    }

    async fn rest(&mut self) {
        let wait = self.back_off.wait();
        tokio::time::sleep(wait).await;
    }

    async fn exchange(&mut self) -> io::Result<Option<Effect>> {
        let Link::Open { port, session } = &mut self.link else { return Ok(None) };
        loop {
            let now = Instant::now();
            if let Some(effect) = session.work(&self.identity, &self.commands, now) {
                return Ok(Some(effect));
            }
            flush(port, session)?;
            session.speak(self.newest.as_ref(), &self.stages, now);
            flush(port, session)?;
            if session.has_work() {
                continue;
            }
            let waits_to_write = !session.outbox().is_empty();
            let paused_until = session.paused_until();
            let waited = tokio::select! {
                biased;
                read = port.read(&mut self.buffer[..]), if session.may_read() => Waited::Read(read?),
                room = port.writable(), if waits_to_write => Waited::Writable(room?),
                () = rest_until(paused_until), if paused_until.is_some() => Waited::Rested,
            };
            match waited {
                Waited::Read(port::Read::Data(read)) => {
                    self.back_off.reset();
                    session.feed(&self.buffer[..read]);
                }
                Waited::Read(port::Read::HostCameBack) => {
                    port.register_again()?;
                    session.host_left();
                    session.host_returned(&self.identity, &self.commands, Instant::now());
                }
                Waited::Read(port::Read::HostAway) | Waited::Writable(Room::HostAway) => {
                    self.lose_host()?;
                    return Ok(None);
                }
                Waited::Rested => {}
                Waited::Writable(Room::Free) => {
                    flush(port, session)?;
                    if session.outbox().is_empty() {
                        // There may be a deadline now.
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn lose_host(&mut self) -> io::Result<()> {
        let Link::Open { port, mut session } = std::mem::replace(&mut self.link, Link::Closed)
        else {
            return Ok(());
        };
        tracing::info!("The host has closed its end of the channel.");
        if port.survives_its_host() {
            session.host_left();
            self.link = Link::HostAway { absent: port.into_absent()?, session };
        }
        Ok(())
    }

    async fn await_host(&mut self) {
        let Link::HostAway { absent, .. } = &self.link else { return };
        let returned = match absent.changed(self.back_off.wait()).await {
            Ok(()) => absent.is_back(),
            Err(error) => Err(error),
        };
        if matches!(returned, Ok(false)) {
            return;
        }
        if let Err(error) = returned.and_then(|_| self.meet_host()) {
            tracing::info!(%error, "The port is gone.");
            self.link = Link::Closed;
        }
    }

    fn meet_host(&mut self) -> io::Result<()> {
        let Link::HostAway { absent, mut session } =
            std::mem::replace(&mut self.link, Link::Closed)
        else {
            return Ok(());
        };
        tracing::info!("A host is at the channel again.");
        session.host_returned(&self.identity, &self.commands, Instant::now());
        self.link = Link::Open { port: absent.into_port()?, session };
        Ok(())
    }
}

/// Waits for the end of a pause; for ever when there is none.
async fn rest_until(paused_until: Option<Instant>) {
    match paused_until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Writes as much as is taken.
fn flush(port: &Port, session: &mut Session) -> io::Result<()> {
    let outbox = session.outbox();
    while !outbox.is_empty() {
        match port.write(outbox.pending())? {
            0 => break,
            written => outbox.advance(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
