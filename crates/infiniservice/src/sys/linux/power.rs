//! Turning the machine off. Whoever is PID 1 knows best how, so it is asked in
//! its own way; only where PID 1 is no init at all is the kernel told directly.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

/// What shall become of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Off.
    PowerDown,
    /// Up again.
    Reboot,
    /// Stopped, with the power on.
    Halt,
}

/// How long systemd may take to say whether the machine is going down.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The first wait for its answer; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// How a machine is turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// `systemctl poweroff` and its like.
    Systemctl,
    /// Busybox's init takes signals.
    BusyboxSignal,
    /// `/sbin/poweroff` and its like: sysvinit, OpenRC, runit.
    Program,
    /// PID 1 is a script or nothing known: the system call.
    Kernel,
}

/// Asks for `mode`. When this returns well the machine is going down; with the
/// system call it does not return.
pub fn turn_off(mode: Mode) -> io::Result<()> {
    let (verb, program) = match mode {
        Mode::PowerDown => ("poweroff", "/sbin/poweroff"),
        Mode::Reboot => ("reboot", "/sbin/reboot"),
        Mode::Halt => ("halt", "/sbin/halt"),
    };
    let method = choose(
        Path::new("/run/systemd/system").exists(),
        &fs::read("/proc/1/cmdline").unwrap_or_default(),
        fs::read_link("/proc/1/exe").ok().as_deref(),
        Path::new(program).exists(),
    );
    tracing::info!(?method, ?mode, "The machine is told to go down.");
    match method {
        Method::Systemctl => run(Command::new("systemctl").arg(verb)),
        Method::Program => run(&mut Command::new(program)),
        Method::BusyboxSignal => {
            let signal = match mode {
                Mode::PowerDown => Signal::USR2,
                Mode::Reboot => Signal::TERM,
                Mode::Halt => Signal::USR1,
            };
            Ok(kill_process(Pid::INIT, signal)?)
        }
        Method::Kernel => {
            // Nobody else is left to unmount: at least nothing stays in memory.
            rustix::fs::sync();
            Ok(reboot(match mode {
                Mode::PowerDown => RebootCommand::PowerOff,
                Mode::Reboot => RebootCommand::Restart,
                Mode::Halt => RebootCommand::Halt,
            })?)
        }
    }
}

/// Whether the machine itself is going down, rather than only this agent.
/// Where nobody can be asked, or nobody answers in time, the answer is yes: an
/// init without services ends its processes only then.
pub async fn is_going_down() -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return true;
    }
    let asked = Command::new("systemctl")
        .arg("is-system-running")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = asked else { return true };
    let mut wait = FIRST_WAIT;
    let until = Instant::now() + ANSWER_TIME;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    // It has ended, or it is of no use any more.
    let _ = child.kill();
    child
        .wait_with_output()
        .map_or(true, |output| output.stdout.is_empty() || output.stdout.starts_with(b"stopping"))
}

fn choose(systemd: bool, cmdline: &[u8], exe: Option<&Path>, has_program: bool) -> Method {
    if systemd {
        return Method::Systemctl;
    }
    let program = cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = program.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    // sysvinit shows its run level: `init [2]`.
    let is_init = name == b"linuxrc" || name == b"init" || name.starts_with(b"init ");
    let is_busybox = exe.and_then(Path::file_name).is_some_and(|it| it == "busybox");
    match (is_init, is_busybox, has_program) {
        (true, true, _) => Method::BusyboxSignal,
        (true, false, true) => Method::Program,
        // runit, s6 and dinit bring their own programs; a shell does not heed
        // the ones that busybox brings.
        (false, false, true) if !is_shell(name) => Method::Program,
        _ => Method::Kernel,
    }
}

fn is_shell(name: &[u8]) -> bool {
    [&b"sh"[..], b"bash", b"dash", b"ash", b"busybox"].contains(&name)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", output.status, said.trim().escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_1_is_asked_in_its_own_way() {
        let busybox = Some(Path::new("/bin/busybox"));
        let sysvinit = Some(Path::new("/sbin/init"));
        let bash = Some(Path::new("/bin/bash"));
        for (systemd, cmdline, exe, has_program, method) in [
            (true, &b"/sbin/init\0"[..], sysvinit, true, Method::Systemctl),
            (false, b"init\0", busybox, true, Method::BusyboxSignal),
            (false, b"/sbin/init\0", busybox, false, Method::BusyboxSignal),
            (false, b"init [2]\0", sysvinit, true, Method::Program),
            (false, b"runit\0", Some(Path::new("/sbin/runit")), true, Method::Program),
            (false, b"/bin/sh\0/init\0", busybox, true, Method::Kernel),
            (false, b"/bin/busybox\0sh\0/init\0", busybox, true, Method::Kernel),
            (false, b"/bin/bash\0/init\0", bash, true, Method::Kernel),
            (false, b"init\0", sysvinit, false, Method::Kernel),
            (false, b"", None, false, Method::Kernel),
        ] {
            assert_eq!(choose(systemd, cmdline, exe, has_program), method, "{cmdline:?}");
        }
    }
}
