//! What a keeper does to itself, so that nothing that ends the daemon ends it.

use std::io;

use rustix::fs::Mode;

/// Leaves the daemon's session, keeps its own files private, ignores the
/// signals that ask for an end (the keeper ends when its machine has ended, and
/// must see how), and lets go of every descriptor but the standard three.
///
/// # Errors
///
/// When a descriptor could not be let go.
#[expect(unsafe_code, reason = "neither call has a safe form in rustix")]
pub fn detach() -> io::Result<()> {
    // Fails only for a leader of a process group, which has a session already.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let _ = rustix::thread::set_name(c"vmm-keeper");
    std::env::set_current_dir("/")?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler, so nothing runs that
        // could break a rule for handlers.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: the process is young and has one thread; no object of this
    // program owns a descriptor above the standard three yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if closed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Connects the standard three to nothing: what was there may close, and
/// writing to it would fail for ever after.
///
/// # Errors
///
/// When the null device is missing.
pub fn silence() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
