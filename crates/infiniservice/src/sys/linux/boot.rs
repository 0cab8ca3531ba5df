//! How far the boot is, as far as it can be truly seen.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Programs that wait for somebody to log in.
const LOGIN_PROGRAMS: [&str; 8] =
    ["agetty", "getty", "mingetty", "mgetty", "login", "sshd", "gdm3", "sddm"];

/// Whether somebody can log in: a program that waits for that runs, and
/// nologin(5) does not forbid it.
pub fn is_login_ready() -> bool {
    if Path::new("/run/nologin").exists() || Path::new("/etc/nologin").exists() {
        return false;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
            && fs::read_to_string(process.path().join("comm"))
                .is_ok_and(|comm| LOGIN_PROGRAMS.contains(&comm.trim_end()))
    })
}

/// Waits for systemd to say that the boot is over.
#[derive(Debug)]
pub struct ServiceManager {
    waiting: Option<Child>,
}

impl ServiceManager {
    /// `None` where systemd is not the init.
    pub fn ask() -> Option<Self> {
        if !Path::new("/run/systemd/system").exists() {
            return None;
        }
        // One process that systemd answers when it is so far: nothing is polled.
        let waiting = Command::new("systemctl")
            .args(["is-system-running", "--wait"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match waiting {
            Ok(child) => Some(Self { waiting: Some(child) }),
            Err(error) => {
                tracing::warn!(%error, "systemctl cannot be run, so the end of the boot is not seen.");
                Some(Self { waiting: None })
            }
        }
    }

    /// The state in which the boot ended: `running`, or `degraded` when a unit
    /// failed. `None` while it has not ended.
    pub fn state(&mut self) -> Option<String> {
        let child = self.waiting.as_mut()?;
        child.try_wait().ok()??;
        let mut state = String::new();
        let mut said = self.waiting.take()?.stdout?;
        said.read_to_string(&mut state).ok()?;
        let state = state.trim();
        ["running", "degraded"].contains(&state).then(|| state.to_owned())
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        if let Some(child) = &mut self.waiting {
            // It may have ended by itself, and then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
