//! The processes beside the daemon, and what the kernel says of a process.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::de::DeserializeOwned;

use super::{guests, reader, subscriber};
use crate::hub_flood::flood;

/// The file in the folder of machines that names all of them, one a line.
pub const IDS: &str = "ids";

/// What this program is, when hub-scale starts it again.
#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// Plays guests.
    Guests {
        /// The folder of their sockets.
        folder: PathBuf,
        /// The first of them.
        from: usize,
        /// How many.
        count: usize,
    },
    /// Reads as the daemon does, and does nothing more.
    Reader {
        /// The folder of the sockets.
        folder: PathBuf,
        /// How many.
        count: usize,
    },
    /// Plays one guest that floods.
    Flooder {
        /// The folder of the sockets.
        folder: PathBuf,
        /// Which of them is its.
        index: usize,
    },
    /// Subscribes to the daemon's events.
    Subscriber {
        /// The daemon's socket.
        socket: PathBuf,
    },
}

/// Is that part.
pub fn run(part: &Part) -> Result<()> {
    match part {
        Part::Guests { folder, from, count } => guests::run(&sockets(folder, *from, *count)?),
        Part::Reader { folder, count } => reader::run(sockets(folder, 0, *count)?),
        Part::Flooder { folder, index } => {
            let socket = sockets(folder, *index, 1)?.pop().context("there are fewer sockets")?;
            flood(&socket)
        }
        Part::Subscriber { socket } => subscriber::run(socket),
    }
}

fn sockets(folder: &Path, from: usize, count: usize) -> Result<Vec<PathBuf>> {
    let ids = std::fs::read_to_string(folder.join(IDS))?;
    let names = ids.lines().skip(from).take(count);
    Ok(names.map(|id| folder.join(format!("{id}.sock"))).collect())
}

/// A part that runs. It ends with this value.
pub struct Running {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a part and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("hub-scale-part")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("this program could not be started again")?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("its output is not piped")?);
        let mut part = Self { child, questions, answers };
        match part.line()?.as_str() {
            "ready" => Ok(part),
            other => bail!("{arguments:?} says {other:?}"),
        }
    }

    /// Asks for what it counted.
    pub fn ask<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.tell("?")
    }

    /// Tells it something, and reads what it answers.
    pub fn tell<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        let questions = self.questions.as_mut().context("it was told to end")?;
        questions.write_all(format!("{line}\n").as_bytes()).context("a part has ended")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.questions.take();
        // It may have ended already, and then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time that a process computed so far, in its own code and in the kernel
/// for it, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let fields = stat.rsplit_once(") ").context("no stat")?.1.split(' ');
    // utime and stime are the 14th and 15th field of proc_pid_stat(5), and the
    // state, which is the 3rd, comes first here.
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// A process's resident memory and the anonymous part of it, in KiB.
pub fn memory_kib(pid: u32) -> Result<[f64; 2]> {
    Ok([status_kib(pid, "VmRSS:")?, status_kib(pid, "RssAnon:")?])
}

/// The largest resident memory that a process had since [`reset_peak`], in KiB.
pub fn peak_kib(pid: u32) -> Result<f64> {
    status_kib(pid, "VmHWM:")
}

/// Lets the kernel measure the largest resident memory anew.
pub fn reset_peak(pid: u32) -> Result<()> {
    // proc_pid_clear_refs(5).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("the peak cannot be reset")
}

fn status_kib(pid: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{name} is not in the status of {pid}"))
}
