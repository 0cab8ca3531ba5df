//! The signals that end the agent, taken from a descriptor. Apart from the
//! runtime's own way, which keeps a channel for each signal that there is: a
//! tenth of this agent's own memory.

#![expect(unsafe_code, reason = "signalfd(2) and the signal mask are the C library's")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// SIGTERM and SIGINT. From its making on they no longer kill the process, nor
/// the programs that it starts, unless those are [`unblocked`].
#[derive(Debug)]
pub struct Termination {
    signals: AsyncFd<OwnedFd>,
}

impl Termination {
    /// Begins to listen. Called while the process has one thread, since a mask
    /// is a thread's.
    pub fn listen() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset fills the set that the other calls take, and
        // signalfd gives a descriptor that nobody else owns.
        let signals = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::other("the signals cannot be blocked"));
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
        let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?;
        Ok(Self { signals })
    }

    /// Waits for either; the name of the one that came.
    pub async fn received(&mut self) -> &'static str {
        loop {
            let Ok(mut guard) = self.signals.readable().await else {
                // The runtime ends, and the agent with it.
                return "the end of the event loop";
            };
            let mut info = [0; size_of::<libc::signalfd_siginfo>()];
            match rustix::io::read(guard.get_inner(), &mut info) {
                Ok(_) if info.starts_with(&libc::SIGINT.to_ne_bytes()) => return "SIGINT",
                Ok(_) => return "SIGTERM",
                Err(_) => guard.clear_ready(),
            }
        }
    }
}

/// Gives a program that is about to be started the usual signal mask, which it
/// would not have by itself: a mask is inherited.
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only these two calls are made, which are
    // safe there, on a set of the child's own.
    unsafe {
        command.pre_exec(|| {
            let mut none = MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            match libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signals_are_taken_and_not_inherited() {
        let mut termination = Termination::listen().unwrap();
        let blocked = |command: &mut Command| {
            let output = command.args(["SigBlk", "/proc/self/status"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        assert_ne!(blocked(&mut Command::new("grep")), 0);
        assert_eq!(blocked(unblocked(&mut Command::new("grep"))), 0);
        let this_thread = rustix::thread::gettid();
        for (number, name) in [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT")] {
            // SAFETY: the signal is blocked in this thread, and sent to it alone.
            let sent = unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    std::process::id(),
                    this_thread.as_raw_nonzero().get(),
                    number,
                )
            };
            assert_eq!(sent, 0);
            assert_eq!(termination.received().await, name);
        }
    }
}
