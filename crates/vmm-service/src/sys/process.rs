//! Other processes: held by pidfd, identified before they are touched.
//!
//! A pid alone names nobody: it is given to another process after the first
//! one's end. What identifies a process is its start time within one boot of
//! the host, and a token of ours among its arguments.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process, whatever becomes of its number.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Takes hold of the process that has this number now. `None` when none
    /// has.
    ///
    /// # Errors
    ///
    /// When the kernel refuses for another reason.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Self(fd))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it. `false` when it is dead already.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn kill(&self) -> io::Result<bool> {
        match rustix::process::pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended. A process that nobody has reaped has ended.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut poll = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(rustix::event::poll(&mut poll, Some(&now))? > 0)
    }

    /// Lets a task wait for its end. Only within a runtime.
    ///
    /// # Errors
    ///
    /// When the runtime cannot take it.
    #[expect(unsafe_code, reason = "tokio takes foreign descriptors only so")]
    pub fn watch(self) -> io::Result<Watch> {
        // SAFETY: the descriptor is owned by what is registered, and given to
        // nobody, so it stays open and the same for as long.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE)? };
        Ok(Watch { registered })
    }

    /// Another hold on the same process.
    ///
    /// # Errors
    ///
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Frees its entry in the process table if it is a child of ours that has
    /// ended; nothing otherwise.
    pub fn reap(&self) {
        // Not ours, or not ended: both mean that there is nothing to free.
        let _ = rustix::process::waitid(
            WaitId::PidFd(self.0.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A process whose end a task waits for.
pub struct Watch {
    registered: AsyncFd<Pidfd>,
}

impl Watch {
    /// Waits for the process's end; at once when it has ended. May be dropped
    /// and asked again.
    pub async fn ended(&self) {
        if self.registered.readable().await.is_err() {
            // The runtime shuts down: the end will not be seen here any more.
            std::future::pending::<()>().await;
        }
    }

    /// The process.
    pub fn pidfd(&self) -> &Pidfd {
        self.registered.get_ref()
    }
}

/// Names one process of one boot of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the host's boot.
    pub start_time: u64,
    /// Which boot.
    pub boot_id: String,
}

impl Fingerprint {
    /// That of a running process.
    ///
    /// # Errors
    ///
    /// When there is no such process or `/proc` does not say.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_time: stat(pid)?.start_time, boot_id: boot_id()? })
    }

    /// That of a process which is gone, in the boot of another that is not.
    pub fn nobody(other: &Self) -> Self {
        Self { pid: 0, start_time: 0, boot_id: other.boot_id.clone() }
    }

    /// Whether the process is still there, and whether it is the one whose
    /// arguments hold `token`.
    pub fn identify(&self, token: &str) -> Identity {
        self.identify_in(Path::new("/proc"), token)
    }

    fn identify_in(&self, proc: &Path, token: &str) -> Identity {
        match boot_id() {
            Ok(now) if now != self.boot_id => return Identity::Gone("the host booted since"),
            Ok(_) => {}
            Err(error) => return Identity::Unknown(format!("the host's boot id: {error}")),
        }
        let process = proc.join(self.pid.to_string());
        let stat = match stat_in(&process) {
            Ok(stat) => stat,
            Err(error) if is_absent(&error) => return Identity::Gone("no such process"),
            Err(error) => {
                return Identity::Unknown(format!("{}/stat: {error}", process.display()));
            }
        };
        if stat.start_time != self.start_time {
            return Identity::Gone("the number belongs to a younger process");
        }
        if stat.is_dead {
            return Identity::Gone("it ended and waits to be reaped");
        }
        match std::fs::read(process.join("cmdline")) {
            Ok(arguments) if holds(&arguments, token.as_bytes()) => Identity::Match,
            // A process gives up its arguments a little before it is gone.
            Ok(arguments) if arguments.is_empty() => {
                Identity::Unknown(format!("process {} shows no arguments", self.pid))
            }
            Ok(_) => Identity::Gone("the process has other arguments"),
            Err(error) if is_absent(&error) => Identity::Gone("no such process"),
            Err(error) => Identity::Unknown(format!("{}/cmdline: {error}", process.display())),
        }
    }
}

/// Whether a process is the one that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It is, and it lives.
    Match,
    /// It is not there any more; why that is known.
    Gone(&'static str),
    /// It could not be told. To be treated as alive, and not to be touched.
    Unknown(String),
}

/// The process of the user `uid` that has `token` among its arguments, if there
/// is one: the search for a process of which no record was written.
///
/// # Errors
///
/// When the processes cannot be listed, or one of that user cannot be told.
pub fn find(token: &str, uid: u32) -> io::Result<Option<Fingerprint>> {
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ended meanwhile is not the one that is looked for.
        let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else { continue };
        if user_of(pid) != Some(uid) {
            continue;
        }
        // A program shows its arguments a little after it has begun.
        if arguments.is_empty() && stat(pid).is_ok_and(|stat| !stat.is_dead) {
            return Err(io::Error::other(format!("process {pid} shows no arguments")));
        }
        if !holds(&arguments, token.as_bytes()) {
            continue;
        }
        if let Ok(fingerprint) = Fingerprint::of(pid) {
            return Ok(Some(fingerprint));
        }
    }
    Ok(None)
}

/// The user under whom a process runs, for good: real, effective and saved.
fn user_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut ids = ids.split_ascii_whitespace();
    let first = ids.next()?;
    ids.all(|id| id == first).then(|| first.parse().ok())?
}

/// Identifies this boot of the host.
///
/// # Errors
///
/// When the kernel does not say.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A path by which this very program can be started again, even after an
/// upgrade replaced its file.
pub fn own_program() -> std::path::PathBuf {
    format!("/proc/{}/exe", std::process::id()).into()
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

struct Stat {
    start_time: u64,
    is_dead: bool,
}

fn stat(pid: u32) -> io::Result<Stat> {
    stat_in(&Path::new("/proc").join(pid.to_string()))
}

fn stat_in(process: &Path) -> io::Result<Stat> {
    let text = std::fs::read(process.join("stat"))?;
    parse_stat(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the kernel's line has another form")
    })
}

/// The program's name is in parentheses and may hold anything, parentheses
/// too; so fields are counted from the last one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    const START_TIME_AFTER_NAME: usize = 19;
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&text[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.clone().next()?;
    let start_time = fields.nth(START_TIME_AFTER_NAME)?.parse().ok()?;
    Some(Stat { start_time, is_dead: matches!(state, "Z" | "X") })
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn holds(arguments: &[u8], token: &[u8]) -> bool {
    !token.is_empty() && arguments.windows(token.len()).any(|window| window == token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(token: &str) -> std::process::Child {
        let child = std::process::Command::new("sleep")
            .args(["60", "0", "--"])
            .arg("0")
            .env("X", token)
            .spawn()
            .unwrap();
        // It shows its arguments a moment after its start was told.
        let arguments = format!("/proc/{}/cmdline", child.id());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read(&arguments).unwrap().is_empty() {
            assert!(std::time::Instant::now() < until, "it never shows them");
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn a_process_is_identified_by_its_start_and_its_token() {
        let mut child = sleeper("");
        let print = Fingerprint::of(child.id()).unwrap();
        assert_eq!(print.identify("60"), Identity::Match);
        assert!(matches!(print.identify("another-token"), Identity::Gone(_)));
        let recycled = Fingerprint { start_time: print.start_time - 1, ..print.clone() };
        assert!(matches!(recycled.identify("60"), Identity::Gone(_)));
        let rebooted = Fingerprint { boot_id: "another".into(), ..print.clone() };
        assert!(matches!(rebooted.identify("60"), Identity::Gone(_)));

        let pidfd = Pidfd::open(child.id()).unwrap().unwrap();
        assert!(!pidfd.has_ended().unwrap());
        assert!(pidfd.kill().unwrap());
        let mut poll = [PollFd::new(&pidfd, PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        // Dead, and not reaped: dead all the same.
        assert!(pidfd.has_ended().unwrap());
        assert!(matches!(print.identify("60"), Identity::Gone(_)));
        pidfd.reap();
        assert!(!pidfd.kill().unwrap());
        assert!(child.wait().is_err(), "reaped already");
    }

    // host-vmm.md 1.5: "Identity before signals: … tri-state
    // match/mismatch/unknown; kill only on match; treat unknown as alive."
    #[test]
    fn a_process_whose_entry_cannot_be_read_is_unknown_and_one_without_an_entry_gone() {
        let proc = tempfile::tempdir().unwrap();
        let print = Fingerprint { pid: 7, start_time: 4242, boot_id: boot_id().unwrap() };
        assert_eq!(print.identify_in(proc.path(), "t"), Identity::Gone("no such process"));
        let process = proc.path().join("7");
        // A folder cannot be read as a file, not by root either.
        std::fs::create_dir_all(process.join("stat")).unwrap();
        assert!(matches!(print.identify_in(proc.path(), "t"), Identity::Unknown(_)));
        std::fs::remove_dir(process.join("stat")).unwrap();
        std::fs::write(process.join("stat"), "no line of the kernel's").unwrap();
        assert!(matches!(print.identify_in(proc.path(), "t"), Identity::Unknown(_)));
        let line = "7 (q) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1";
        std::fs::write(process.join("stat"), line).unwrap();
        std::fs::create_dir(process.join("cmdline")).unwrap();
        assert!(matches!(print.identify_in(proc.path(), "t"), Identity::Unknown(_)));
        std::fs::remove_dir(process.join("cmdline")).unwrap();
        std::fs::write(process.join("cmdline"), "q\0-x\0t\0").unwrap();
        assert_eq!(print.identify_in(proc.path(), "t"), Identity::Match);
    }

    #[test]
    fn a_process_is_found_by_its_arguments_and_its_user() {
        use std::os::unix::process::CommandExt as _;

        let uid = 1_900_009_997;
        let mut command = std::process::Command::new("sleep");
        let mut child = command.args(["60", "0.25"]).uid(uid).gid(uid).spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let found = loop {
            match find("0.25", uid) {
                Ok(found) => break found.unwrap(),
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
        };
        assert_eq!(found, Fingerprint::of(child.id()).unwrap());
        assert_eq!(find("0.25", uid + 1).unwrap(), None, "anybody can have such arguments");
        assert_eq!(find("0.26", uid).unwrap(), None);
        assert!(matches!(Fingerprint::nobody(&found).identify("60"), Identity::Gone(_)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_number_that_no_process_can_have_is_nobody() {
        assert!(Pidfd::open(0).unwrap().is_none());
        assert!(Pidfd::open(u32::MAX).unwrap().is_none());
    }

    #[test]
    fn a_program_named_like_the_kernels_own_line_fools_nobody() {
        let line = b"7 (a) Z 1 (b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat.start_time, 4242);
        assert!(!stat.is_dead);
        assert!(parse_stat(b"").is_none());
        assert!(parse_stat(b"7 (a) S 1").is_none());
    }
}
