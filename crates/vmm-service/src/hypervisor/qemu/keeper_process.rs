//! Starting a keeper and hearing what it has to say.

use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::keeper::records::Report;
use crate::keeper::{RESUME, SUBCOMMAND};
use crate::sys::process::Pidfd;
use crate::sys::{descriptor, process, scope};

/// How long a keeper may take to say how the start went: a kernel image on a
/// slow disk is read meanwhile.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);

/// The longest report, in bytes.
const LONGEST_REPORT: usize = 64 << 10;

/// Starts a keeper for the machine in `dir` and waits for its report. Blocks.
///
/// # Errors
///
/// When there is no keeper; whatever it left behind is the caller's to find.
pub(super) fn launch(dir: &Path, name: &str, resume: bool) -> io::Result<(Pidfd, Report)> {
    let mut command = scope::command(&process::own_program(), name);
    command.arg(SUBCOMMAND);
    if resume {
        command.arg(RESUME);
    }
    let mut child = command.arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let pidfd = Pidfd::open(child.id())?.ok_or_else(|| io::Error::other("the keeper is gone"))?;
    match hear(&mut child) {
        Ok(report @ Report::Runs { .. }) => Ok((pidfd, report)),
        Ok(report @ Report::Failed { .. }) => {
            child.wait()?;
            Ok((pidfd, report))
        }
        Err(error) => {
            pidfd.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

fn hear(child: &mut Child) -> io::Result<Report> {
    let mut output =
        child.stdout.take().ok_or_else(|| io::Error::other("the keeper has no output"))?;
    descriptor::set_nonblocking(&output)?;
    let deadline = Instant::now() + REPORT_DEADLINE;
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while !line.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        if descriptor::wait_readable(&[&output], Some(left))?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the keeper said nothing in time"));
        }
        match output.read(&mut chunk)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the keeper ended without a word",
                ));
            }
            count => line.extend_from_slice(&chunk[..count]),
        }
        if line.len() > LONGEST_REPORT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the keeper's report is too long",
            ));
        }
    }
    Ok(serde_json::from_slice(&line)?)
}
