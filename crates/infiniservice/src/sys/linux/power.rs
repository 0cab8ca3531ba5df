//! Turning the machine off. Whoever is PID 1 knows best how, so it is asked in
//! its own way; only where PID 1 is no init at all is the kernel told directly.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

use super::signal::unblocked;

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

/// How long the program that turns the machine off may take to say that it
/// will: systemctl waits 25 seconds for systemd's bus and then helps itself.
const TURN_OFF_TIME: Duration = Duration::from_secs(40);

/// What a failed program said, as far as it is told on, in bytes.
const SAID_BYTES: u64 = 1024;

/// The first wait for a program's end; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// The longest of these waits.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

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
pub async fn turn_off(mode: Mode) -> io::Result<()> {
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
        Method::Systemctl => run(Command::new("systemctl").arg(verb), TURN_OFF_TIME).await,
        Method::Program => run(&mut Command::new(program), TURN_OFF_TIME).await,
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
    // Without an answer the output is empty.
    let _ = ended(&mut child, ANSWER_TIME).await;
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

async fn run(command: &mut Command, within: Duration) -> io::Result<()> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = unblocked(quiet.stderr(Stdio::piped())).spawn()?;
    let Some(status) = ended(&mut child, within).await? else {
        let program = command.get_program().display();
        return Err(io::Error::other(format!("{program} did not end within {within:?}")));
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(SAID_BYTES).read_to_end(&mut said)?;
    }
    let said = String::from_utf8_lossy(&said);
    Err(io::Error::other(format!("{status}: {}", said.trim().escape_debug())))
}

/// Waits for the end of `child`; after `within` it is of no use any more and is
/// killed. What it says beyond a pipe's length holds it up, not the agent.
async fn ended(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let mut wait = FIRST_WAIT;
    let until = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
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

    #[tokio::test]
    async fn a_program_that_does_not_end_holds_nobody() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let within = Duration::from_millis(100);
        let error = run(&mut shell("exec sleep 60"), within).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        let within = Duration::from_secs(20);
        let error = run(&mut shell("echo no bus >&2; exit 3"), within).await.unwrap_err();
        assert!(error.to_string().contains("no bus"), "{error}");
        run(&mut shell("exit 0"), within).await.unwrap();
    }
}
