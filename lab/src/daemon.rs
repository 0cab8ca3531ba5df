//! Runs a `vmm-service` of the lab's own: its state, its sockets and its log
//! lie in one folder, and it takes no port that another one may have.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::socket_peercred;

use crate::build::HostPrograms;
use crate::program::{output, privileged};
use crate::wait;

/// How long the daemon may take to answer: probing the accelerator may boot a
/// guest that never comes up.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the daemon may take to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long one answer to `/health` may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How much of the log an error repeats, in bytes.
const LOG_TAIL: usize = 4000;

/// Where a daemon of the lab keeps everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The built programs.
    pub programs: HostPrograms,
    /// The folder of its state. Short: the path of a unix socket below it has
    /// at most 107 bytes.
    pub folder: PathBuf,
    /// Further variables of its environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl Settings {
    /// The socket on which it answers.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("vmm.sock")
    }

    /// What it logged, over all its runs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    /// The folder of its VMs.
    #[must_use]
    pub fn vms(&self) -> PathBuf {
        self.folder.join("vms")
    }

    /// A `vmmctl` that speaks to this daemon.
    #[must_use]
    pub fn vmmctl(&self) -> Command {
        let mut command = privileged(&self.programs.vmmctl, &[]);
        command.arg("--socket").arg(self.socket());
        command
    }

    /// The end of the log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_TAIL);
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// The environment that a daemon with these settings is started with.
    #[must_use]
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        let mut state = OsString::from("sqlite://");
        state.push(self.folder.join("state.db"));
        let own: [(&str, OsString); 4] = [
            ("VMM_SOCKET", self.socket().into()),
            ("VMM_VM_DIR", self.vms().into()),
            ("VMM_STATE_URL", state),
            // Any free port: nothing of the lab asks over TCP.
            ("VMM_API_PORT", "0".into()),
        ];
        own.into_iter()
            .map(|(name, value)| (name.into(), value))
            .chain(self.environment.iter().cloned())
            .collect()
    }
}

/// A running daemon. It is killed with this value; its VMs go on, as they do
/// when any daemon dies.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    settings: Settings,
}

impl Daemon {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not answer in time; the error
    /// holds the end of its log.
    pub fn start(settings: Settings) -> Result<Self> {
        let mut daemon = Self::spawn(settings)?;
        daemon.wait_until_healthy()?;
        Ok(daemon)
    }

    /// Starts the daemon and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(settings: Settings) -> Result<Self> {
        fs::create_dir_all(settings.vms())
            .with_context(|| format!("cannot make {}", settings.vms().display()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(settings.log())
            .with_context(|| format!("cannot write {}", settings.log().display()))?;
        let process = privileged(&settings.programs.daemon, &settings.variables())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C on the terminal is ours to handle, in our order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", settings.programs.daemon.display()))?;
        Ok(Self { process, settings })
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills it as a crash would. Its VMs go on.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<Settings> {
        self.process.kill().context("cannot kill the daemon")?;
        self.process.wait()?;
        Ok(self.settings.clone())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time (it is killed then) or fails.
    pub fn stop(mut self) -> Result<Settings> {
        terminate(self.process.id())?;
        let status =
            wait::until("the daemon's end", STOP_LIMIT, || Ok(self.process.try_wait()?))
                .with_context(|| format!("its log ends with:\n{}", self.settings.log_tail()))?;
        if !status.success() {
            bail!("the daemon failed ({status}); its log ends with:\n{}", self.settings.log_tail());
        }
        Ok(self.settings.clone())
    }

    /// Leaves it running when this program ends.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        let socket = self.settings.socket();
        wait::until("an answer of the daemon", START_LIMIT, || {
            if let Some(status) = self.process.try_wait()? {
                bail!("the daemon ended ({status})");
            }
            Ok(is_healthy(&socket).unwrap_or(false).then_some(()))
        })
        .with_context(|| format!("the daemon's log ends with:\n{}", self.settings.log_tail()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already in `stop` and `kill`; else a test failed half-way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends the daemon that an earlier run left behind, if one listens on the
/// socket of these settings.
///
/// # Errors
/// When it does not end in time.
pub fn end_earlier(settings: &Settings) -> Result<()> {
    let socket = settings.socket();
    let Ok(stream) = UnixStream::connect(&socket) else { return Ok(()) };
    // Who listens there is asked of the kernel: a file with a process id would
    // name somebody else after a reboot.
    let peer = socket_peercred(&stream).context("cannot see who listens on the daemon's socket")?;
    drop(stream);
    terminate(peer.pid.as_raw_nonzero().get().unsigned_abs())?;
    wait::until("the earlier daemon's end", STOP_LIMIT, || {
        Ok(UnixStream::connect(&socket).is_err().then_some(()))
    })
}

/// Asks a process to end. By a shell, whose builtin is there on every system:
/// whoever needs sudo to start the daemon needs it to end the daemon, too.
fn terminate(pid: u32) -> Result<()> {
    output(privileged("sh", &[]).args(["-c", "kill -TERM \"$1\"", "kill", &pid.to_string()]))
        .map(drop)
        .context("cannot ask the daemon to end")
}

/// One `GET /health`, spelled out: it needs no HTTP client.
fn is_healthy(socket: &Path) -> Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: vmm\r\nconnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(&head == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_200_is_health() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        assert!(is_healthy(&socket).is_err(), "nobody listens");
        let listener = UnixListener::bind(&socket).unwrap();
        for (answer, expected) in [("HTTP/1.1 200 OK\r\n", true), ("HTTP/1.1 503 X\r\n", false)] {
            let asking = std::thread::spawn({
                let socket = socket.clone();
                move || is_healthy(&socket).unwrap()
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            assert_eq!(asking.join().unwrap(), expected);
        }
    }
}
