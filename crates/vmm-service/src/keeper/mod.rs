//! `vmm-service keep DIR`: one tiny process per machine, between the daemon and
//! QEMU, as conmon is for containers.
//!
//! It starts what `DIR/launch.json` says, tells the daemon how that went on its
//! standard output, keeps the console log from the first byte, and writes down
//! how QEMU ended. It lives as long as its QEMU, whatever becomes of the
//! daemon, and knows nothing else. With `--resume` it takes over from a keeper
//! that died. It has one thread and no runtime: a host holds one per machine.

mod launch;
mod log;
pub mod records;
mod watch;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::sys;
use records::{Report, RunRecord};

/// The daemon's word for this program: `vmm-service keep [--resume] DIR`.
pub const SUBCOMMAND: &str = "keep";
/// The flag that makes a keeper take over a machine that runs.
pub const RESUME: &str = "--resume";

/// The exit status for everything that went wrong.
const FAILED: u8 = 1;

/// Keeps the machine whose folder is `dir` (absolute) until it has ended.
/// Returns the process's exit status; nothing but it may run in this process.
pub fn run(dir: &Path, resume: bool) -> u8 {
    let kept = match sys::session::detach()
        .map_err(KeepError::because("the keeper could not detach itself"))
    {
        Ok(()) if resume => launch::resume(dir),
        Ok(()) => launch::start(dir),
        Err(error) => Err(error),
    };
    let (report, kept) = match kept {
        Ok(kept) => (Report::Runs { qemu: kept.record.qemu.clone() }, Some(kept)),
        Err(error) => (Report::Failed { message: error.to_string(), refused: error.refused }, None),
    };
    say(&report);
    let Some(kept) = kept else { return FAILED };
    if sys::session::silence().is_err() {
        // What the daemon left open is only in the way; watching goes on.
    }
    match watch::until_the_end(kept) {
        Ok(()) => 0,
        Err(_) => FAILED,
    }
}

/// A machine that runs, with what its keeper needs to watch it.
struct Kept {
    /// Held for the lock on it: one keeper per machine.
    folder: File,
    /// What is known of the process.
    record: RunRecord,
    /// The process, when it is this keeper's child.
    child: Option<std::process::Child>,
    /// The process, whoever's child it is.
    pidfd: sys::process::Pidfd,
    /// The machine's serial console.
    console: Option<File>,
    /// What QEMU and its companions print.
    output: Option<File>,
    /// Programs beside QEMU that end with it.
    companions: Vec<Beside>,
    /// The machine's name in the host's control groups.
    group: String,
    /// Where both are kept.
    logs: launch::Logs,
}

/// A program beside QEMU.
struct Beside {
    /// What it is, for the log.
    program: String,
    /// The process, whoever's child it is.
    pidfd: sys::process::Pidfd,
    /// The process, when it is this keeper's child.
    child: Option<std::process::Child>,
}

fn say(report: &Report) {
    let mut line = serde_json::to_vec(report).expect("a report of text and numbers is always JSON");
    line.push(b'\n');
    // A daemon that is gone reads the records instead.
    let _ = std::io::stdout().write_all(&line);
}

/// Why a keeper keeps nothing, in one sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct KeepError {
    message: String,
    refused: bool,
}

impl KeepError {
    /// The host failed while something was done.
    fn because<E: std::fmt::Display>(context: impl Into<String>) -> impl FnOnce(E) -> Self {
        let context = context.into();
        move |error| Self { message: format!("{context}: {error}"), refused: false }
    }

    /// What was asked for is not there.
    fn refused(message: String) -> Self {
        Self { message, refused: true }
    }
}
