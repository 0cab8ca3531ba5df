//! Asking a program for a few lines. It may hang, or never stop talking: it is
//! given so long and so much, and is gone when the question is answered.

use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys::descriptor;

/// The longest answer that is read, in bytes. QEMU's list of machine types has
/// a tenth of that.
const LONGEST_ANSWER: usize = 256 << 10;

/// What `program` prints before it ends. Blocks for up to `limit`.
///
/// # Errors
///
/// When it cannot be started, does not end in time, or says too much.
pub(super) fn ask(program: &Path, arguments: &[&str], limit: Duration) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let answer = listen(&mut child, limit);
    // Its output has ended, and so has it, mostly.
    child.kill()?;
    child.wait()?;
    answer.map(|answer| String::from_utf8_lossy(&answer).into_owned())
}

fn listen(child: &mut Child, limit: Duration) -> io::Result<Vec<u8>> {
    let mut output = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
    descriptor::set_nonblocking(&output)?;
    let deadline = Instant::now() + limit;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        if descriptor::wait_readable(&[&output], Some(left))?.is_empty() {
            let why = format!("it did not answer within {} s", limit.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        match output.read(&mut chunk)? {
            0 => return Ok(answer),
            count => answer.extend_from_slice(&chunk[..count]),
        }
        if answer.len() > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer has no end"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::contract::SOON;
    use super::*;

    // host-vmm.md 1.5: "Command runner without timeout, kill and output limit
    // holds locks for ever".
    #[test]
    fn a_program_that_hangs_or_never_stops_talking_is_killed() {
        let shell = Path::new("/bin/sh");
        let pid = tempfile::NamedTempFile::new().unwrap();
        let hangs = format!("echo $$ >{}; exec sleep 600", pid.path().display());
        let hung = ask(shell, &["-c", &hangs], Duration::from_millis(500)).unwrap_err();
        assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
        let pid = std::fs::read_to_string(pid.path()).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it runs on");
        let endless = ask(shell, &["-c", "while :; do echo more; done"], SOON).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::InvalidData);
        assert_eq!(ask(shell, &["-c", "echo a; echo b"], SOON).unwrap(), "a\nb\n");
    }
}
