//! The daemon's own command line, started without the daemon: what a VM's start
//! costs when nothing is kept, confined or remembered.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use serde::Deserialize;
use serde_json::Value;

/// What the daemon told its keeper to start, as far as it concerns QEMU.
#[derive(Deserialize)]
pub struct CommandLine {
    program: PathBuf,
    arguments: Vec<String>,
    listeners: Vec<Listener>,
    files: Vec<Handed>,
}

#[derive(Deserialize)]
struct Listener {
    name: String,
    number: i32,
}

#[derive(Deserialize)]
struct Handed {
    path: PathBuf,
    number: i32,
}

/// QEMU, killed when it is dropped.
pub struct Machine(Child);

impl CommandLine {
    /// Reads the record that lies in the folder of a VM's run.
    pub fn of(run: &Path) -> Result<Self> {
        let record = run.join("launch.json");
        let text = std::fs::read(&record)
            .with_context(|| format!("{} could not be read", record.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Starts it, its sockets in `folder`, and lets the processors run.
    pub fn start(&self, folder: &Path) -> Result<Machine> {
        let mut inherited = Vec::new();
        for listener in &self.listeners {
            let path = folder.join(&listener.name);
            // Left by the run before.
            let _ = std::fs::remove_file(&path);
            inherited.push(at_number(&UnixListener::bind(path)?, listener.number)?);
        }
        for file in &self.files {
            let opened = File::open(&file.path)
                .with_context(|| format!("{} could not be opened", file.path.display()))?;
            inherited.push(at_number(&opened, file.number)?);
        }
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("{} could not be started", self.program.display()))?;
        // The machine itself has them now; here they would outlive it.
        drop(inherited);
        let machine = Machine(child);
        let_it_run(&folder.join("qmp.sock"))?;
        Ok(machine)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have died already, and then there is nothing left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A duplicate under exactly this number, which children inherit.
fn at_number(descriptor: &impl AsFd, number: i32) -> Result<OwnedFd> {
    let duplicate = fcntl_dupfd_cloexec(descriptor, number)?;
    ensure!(duplicate.as_raw_fd() == number, "descriptor {number} is in use here");
    fcntl_setfd(&duplicate, FdFlags::empty())?;
    Ok(duplicate)
}

/// The command line ends with the processors stopped, as the daemon wants it.
fn let_it_run(monitor: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(monitor)?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    // QEMU's greeting.
    lines.next().context("QEMU did not greet")??;
    for command in ["qmp_capabilities", "cont"] {
        writeln!(stream, r#"{{"execute":"{command}"}}"#)?;
        loop {
            let line = lines.next().with_context(|| format!("QEMU ended before {command}"))??;
            let message: Value = serde_json::from_str(&line)?;
            ensure!(message.get("error").is_none(), "{command}: {line}");
            if message.get("return").is_some() {
                break;
            }
        }
    }
    Ok(())
}
