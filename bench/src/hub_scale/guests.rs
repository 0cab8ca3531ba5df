//! The guests: one process that listens on thousands of sockets in their place,
//! says hello to whoever connects, and then replays a report a second on each,
//! evenly spread. It answers questions on its standard input.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::reports::{self, ROUND, Report, now_us};

/// How often each guest reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whose turn it is: what is due within the same
/// millisecond goes out together.
const TICK: Duration = Duration::from_millis(1);
/// Marks the standard input among the listeners.
const STDIN: u64 = u64::MAX;

/// What the guests of one process did so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    /// Hosts that were let in, one after the other.
    pub accepted: usize,
    /// Guests with a host that is connected.
    pub connected: usize,
    /// Guests that have told everything once.
    pub reported: usize,
    /// Reports that were written.
    pub sent: u64,
    /// Reports that were not, because the host had not read those before.
    pub refused: u64,
}

struct Guest {
    listener: UnixListener,
    host: Option<UnixStream>,
    /// Reports on this connection.
    told: u64,
    /// What the host did not take of the last one.
    rest: Vec<u8>,
}

struct Guests {
    all: Vec<Guest>,
    reports: Vec<Report>,
    count: Count,
}

/// Plays the guests of these sockets until its standard input ends.
pub fn run(sockets: &[PathBuf]) -> Result<()> {
    super::raise_open_files()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut guests = Guests { all: Vec::new(), reports: reports::load()?, count: Count::default() };
    for (index, socket) in sockets.iter().enumerate() {
        let guest = Guest::listen(socket)?;
        epoll::add(&epoll, &guest.listener, EventData::new_u64(index as u64), EventFlags::IN)?;
        guests.all.push(guest);
    }
    epoll::add(&epoll, std::io::stdin(), EventData::new_u64(STDIN), EventFlags::IN)?;
    println!("ready");
    let step = INTERVAL / u32::try_from(sockets.len()).context("too many sockets")?;
    let (mut turn, mut due) = (0, Instant::now());
    let mut events = Vec::with_capacity(1024);
    loop {
        while due <= Instant::now() {
            guests.report(turn);
            turn = (turn + 1) % sockets.len();
            due += step;
        }
        let pause = due.saturating_duration_since(Instant::now()).max(TICK);
        let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&pause))?;
        for event in &events {
            // The kernel packs it: no part of it can be borrowed.
            let data = event.data;
            match data.u64() {
                STDIN if !guests.answer()? => return Ok(()),
                STDIN => {}
                index => guests.accept(usize::try_from(index)?),
            }
        }
    }
}

impl Guest {
    fn listen(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("{} could not be made", socket.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, host: None, told: 0, rest: Vec::new() })
    }
}

impl Guests {
    fn report(&mut self, index: usize) {
        let guest = &mut self.all[index];
        let Some(host) = &mut guest.host else { return };
        // A full one first, and the later ones not all in the same second.
        let place = (guest.told as usize + index) % ROUND;
        let report = &mut self.reports[if guest.told == 0 { 0 } else { place }];
        if place == 0 {
            // What the host says is of no interest, but must not pile up.
            let _ = host.read(&mut [0; 4096]);
        }
        let bytes = match guest.rest.is_empty() {
            true => report.stamped(guest.told, now_us()),
            false => &guest.rest,
        };
        match host.write(bytes) {
            Ok(written) => {
                guest.rest = bytes[written..].to_vec();
                if guest.rest.is_empty() {
                    guest.told += 1;
                    self.count.sent += 1;
                    self.count.reported += usize::from(guest.told == 1);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.count.refused += 1,
            Err(_gone) => {
                guest.host = None;
                self.count.connected -= 1;
                self.count.reported -= usize::from(guest.told > 0);
            }
        }
    }

    fn accept(&mut self, index: usize) {
        let guest = &mut self.all[index];
        // It may have gone again.
        let Ok((mut host, _)) = guest.listener.accept() else { return };
        let hello = json!({
            "protocols": [1], "session": format!("{index:032x}"), "agent_id": format!("{index:032x}"),
            "agent": "infiniservice/0.1.0", "boot_id": "00000000-0000-4000-8000-000000000000",
            "capabilities": ["agent-heartbeat", "agent-hello", "agent-report", "guest-info",
                "guest-ping", "guest-shutdown", "guest-sync", "guest-sync-delimited"],
            "clock": clock(),
        });
        let hello = format!("{{\"event\":\"HELLO\",\"data\":{hello},\"timestamp\":{}}}\n", clock());
        let bytes = [&[0xFF], hello.as_bytes()].concat();
        if host.set_nonblocking(true).is_err() || host.write_all(&bytes).is_err() {
            return;
        }
        self.count.accepted += 1;
        self.count.connected += usize::from(guest.host.is_none());
        self.count.reported -= usize::from(guest.host.is_some() && guest.told > 0);
        (guest.host, guest.told, guest.rest) = (Some(host), 0, Vec::new());
    }

    /// Answers a question; `false` when there will be no more.
    fn answer(&mut self) -> Result<bool> {
        if std::io::stdin().read(&mut [0; 64])? == 0 {
            return Ok(false);
        }
        println!("{}", serde_json::to_string(&self.count)?);
        Ok(true)
    }
}

fn clock() -> serde_json::Value {
    let now = jiff::Timestamp::now();
    json!({"seconds": now.as_second(), "microseconds": now.subsec_microsecond()})
}
