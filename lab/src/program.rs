//! Running other programs: errors carry the command and what it said, and
//! nothing runs without somebody waiting for it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed program's words an error repeats, in bytes.
const TAIL: usize = 2000;

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error holds the end
/// of what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = shown(command);
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !done.status.success() {
        bail!("{shown} failed ({}): {}", done.status, tail(&done.stderr));
    }
    Ok(done.stdout)
}

/// Runs a program to its end on the caller's terminal, so that its own
/// progress is seen.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// A program that runs as root: through sudo only for somebody else, whose
/// environment sudo would not pass on.
#[must_use]
pub fn privileged(program: impl AsRef<OsStr>, environment: &[(OsString, OsString)]) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new(program);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in environment {
        let mut assignment = name.clone();
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// Where a program lies, looked up in `PATH` and in the folders that a user's
/// `PATH` often leaves out.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether a 64-bit ELF program asks for no dynamic loader, and so runs in a
/// guest that has no libraries.
///
/// # Errors
/// When the file cannot be read.
pub fn is_static(program: &Path) -> Result<bool> {
    /// The program header table lies in the first pages of what linkers write.
    const HEADERS: u64 = 64 * 1024;
    let mut head = Vec::new();
    File::open(program)
        .and_then(|file| file.take(HEADERS).read_to_end(&mut head))
        .with_context(|| format!("cannot read {}", program.display()))?;
    Ok(has_no_loader(&head).unwrap_or(false))
}

/// The end of a text, for an error message.
#[must_use]
pub fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Reads an ELF64 little-endian program header table; nothing when it is none.
fn has_no_loader(head: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let offset = u64::from_le_bytes(head.get(32..40)?.try_into().ok()?);
    let size = usize::from(u16::from_le_bytes(head.get(54..56)?.try_into().ok()?));
    let count = usize::from(u16::from_le_bytes(head.get(56..58)?.try_into().ok()?));
    let table = head.get(usize::try_from(offset).ok()?..)?;
    for index in 0..count {
        let entry = table.get(index.checked_mul(size)?..)?;
        if u32::from_le_bytes(entry.get(..4)?.try_into().ok()?) == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_ran_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("no"), "{text}");
    }

    #[test]
    fn text_is_no_static_program() {
        assert_eq!(has_no_loader(b"#!/bin/sh"), None);
        assert_eq!(has_no_loader(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn this_test_asks_for_a_loader() {
        let this = std::env::current_exe().unwrap();
        assert!(!is_static(&this).unwrap());
    }

    #[test]
    fn finds_the_shell() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
