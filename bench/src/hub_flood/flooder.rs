//! The guest that floods: it writes as fast as the host reads, never reads
//! itself, and does what its standard input names.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::floods::{Flood, Kind, hello, sign_of_life};

/// How long a write may take before it is looked what is to be done now.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often a quiet guest says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What was done since the line before.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Flooded {
    /// Bytes that the host took.
    pub bytes: u64,
    /// Hosts that were let in.
    pub hosts: u64,
}

/// What both threads know.
#[derive(Default)]
struct Shared {
    /// Which of [`Kind::ALL`].
    kind: AtomicUsize,
    bytes: AtomicU64,
    hosts: AtomicU64,
}

/// Plays the guest until the standard input ends. Each line there is the number
/// of a kind, and is answered by what was done before it.
pub fn run(socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("{} could not be made", socket.display()))?;
    let shared = Arc::new(Shared::default());
    let playing = std::thread::spawn({
        let shared = Arc::clone(&shared);
        move || play(&listener, &shared)
    });
    println!("ready");
    for line in std::io::stdin().lines() {
        ensure!(!playing.is_finished(), "nobody can be let in any more");
        let kind: usize = line?.trim().parse().context("that is no number of a kind")?;
        ensure!(kind < Kind::ALL.len(), "there is no kind {kind}");
        shared.kind.store(kind, Ordering::Relaxed);
        let flooded = Flooded {
            bytes: shared.bytes.swap(0, Ordering::Relaxed),
            hosts: shared.hosts.swap(0, Ordering::Relaxed),
        };
        println!("{}", serde_json::to_string(&flooded)?);
    }
    Ok(())
}

fn play(listener: &UnixListener, shared: &Shared) -> io::Result<()> {
    loop {
        let (host, _) = listener.accept()?;
        shared.hosts.fetch_add(1, Ordering::Relaxed);
        // One that goes is followed by the next.
        let _ = serve(host, shared);
    }
}

fn serve(mut host: UnixStream, shared: &Shared) -> io::Result<()> {
    host.set_write_timeout(Some(PATIENCE))?;
    host.write_all(hello(0).as_bytes())?;
    loop {
        match shared.kind() {
            Kind::HangUps => return Ok(()),
            Kind::Quiet => {
                // A host that reads nothing yet has enough signs of life.
                taken(host.write(&sign_of_life()))?;
                let until = Instant::now() + HEARTBEAT;
                while shared.kind() == Kind::Quiet && Instant::now() < until {
                    std::thread::park_timeout(PATIENCE);
                }
            }
            kind => flood(&mut host, kind, shared)?,
        }
    }
}

fn flood(host: &mut UnixStream, kind: Kind, shared: &Shared) -> io::Result<()> {
    let mut flood = Flood::new(kind);
    loop {
        let mut rest = flood.next();
        while !rest.is_empty() {
            if shared.kind() != kind {
                return Ok(());
            }
            let written = taken(host.write(rest))?;
            shared.bytes.fetch_add(written as u64, Ordering::Relaxed);
            rest = &rest[written..];
        }
    }
}

/// How much was written, which is nothing when the time was over.
fn taken(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

impl Shared {
    fn kind(&self) -> Kind {
        Kind::ALL[self.kind.load(Ordering::Relaxed)]
    }
}
