//! What is measured beside: other agents, and the limits.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::event::epoll;
use rustix::thread::{CpuSet, sched_setaffinity};

/// A process that is measured, killed when it is dropped.
pub struct Peer {
    child: Child,
    socket: PathBuf,
}

impl Peer {
    /// Starts `command`, which will listen on `socket`.
    pub fn start(mut command: Command, socket: &Path) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        Ok(Self { child, socket: socket.to_owned() })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have died already, and then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pins this process, and what it starts from now on, to one processor:
/// otherwise the scheduler's placement is what is measured.
pub fn pin_to_one_cpu() -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(0);
    sched_setaffinity(None, &set).context("this process could not be pinned to processor 0")
}

/// Sends back whatever one client after another says: the least that an answer
/// can cost. With `epoll` it waits as whoever must wait for other things too, for
/// signals and timers say: the least that an agent's answer can cost.
pub fn echo(socket: &Path, epoll: bool) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let waiting = if epoll { Some(Waiting::on(&stream)?) } else { None };
        let mut buffer = [0; 4096];
        loop {
            if let Some(waiting) = &waiting {
                waiting.wait()?;
            }
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => stream.write_all(&buffer[..read])?,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// One descriptor behind epoll(7), edge-triggered as tokio has them.
struct Waiting(OwnedFd);

impl Waiting {
    fn on(stream: &UnixStream) -> rustix::io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set, stream, epoll::EventData::new_u64(0), flags)?;
        Ok(Self(set))
    }

    fn wait(&self) -> rustix::io::Result<()> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        epoll::wait(&self.0, &mut events[..], None).map(drop)
    }
}
