//! Descriptors that another program gets under numbers that were agreed upon.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// The lowest number that may be agreed upon. Descriptors that nobody moved lie
/// far below it.
pub const FIRST_AGREED: RawFd = 64;

/// Another of this descriptor under the number that was agreed upon.
///
/// # Errors
///
/// When the number is taken, or beyond the limit on open files.
pub fn place(fd: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    let placed = rustix::io::fcntl_dupfd_cloexec(fd, number).map_err(|error| match error {
        // How the kernel says that it lies beyond RLIMIT_NOFILE.
        Errno::INVAL => io::Error::other(format!(
            "too many open files: descriptor {number} lies beyond the limit of this process"
        )),
        error => error.into(),
    })?;
    if placed.as_raw_fd() != number {
        return Err(io::Error::other(format!("descriptor {number} is taken")));
    }
    Ok(placed)
}

/// The name by which a program opens again what it holds under this number.
pub fn path_of(number: RawFd) -> String {
    format!("/proc/self/fd/{number}")
}

/// A path of this process to a file in a folder that it holds open: short,
/// however long the folder's own path is.
pub fn path_beneath(folder: &impl AsFd, name: &std::path::Path) -> PathBuf {
    PathBuf::from(path_of(folder.as_fd().as_raw_fd())).join(name)
}

/// Waits until something can be read from one of these, or it was closed, and
/// says from which. An empty answer means that `timeout_ms` has passed.
///
/// # Errors
///
/// When the kernel refuses.
pub fn wait_readable(fds: &[impl AsFd], timeout_ms: Option<i64>) -> io::Result<Vec<usize>> {
    let mut polls: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let timeout =
        timeout_ms.map(|ms| Timespec { tv_sec: ms / 1000, tv_nsec: (ms % 1000) * 1_000_000 });
    loop {
        match rustix::event::poll(&mut polls, timeout.as_ref()) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(polls
        .iter()
        .enumerate()
        .filter(|(_, poll)| !poll.revents().is_empty())
        .map(|(at, _)| at)
        .collect())
}

/// Makes reads of it return at once.
///
/// # Errors
///
/// When the kernel refuses.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_taken_is_not_taken_twice() {
        let (one, two) = rustix::pipe::pipe().unwrap();
        let placed = place(&one, 700).unwrap();
        assert_eq!(placed.as_raw_fd(), 700);
        assert!(place(&two, 700).is_err());
    }

    #[test]
    fn waiting_tells_who_is_ready() {
        let (quiet, _quiet) = rustix::pipe::pipe().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(wait_readable(&[&quiet, &read], Some(0)).unwrap().is_empty());
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(wait_readable(&[&quiet, &read], None).unwrap(), [1]);
    }
}
