//! Unix sockets of a machine's folder.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::descriptor::path_beneath;

/// The longest path that a unix socket's address holds, in bytes: 108 less the
/// closing NUL.
pub const LONGEST_PATH: usize = 107;

/// Connections that may wait to be accepted. Each socket has one client.
const BACKLOG: i32 = 4;

/// Makes the listening socket `name` in `folder`, in place of a stale one. Who
/// may connect follows from the process's umask.
///
/// # Errors
///
/// When it cannot be made.
pub fn listen(folder: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let path = path_beneath(folder, Path::new(name));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = stream()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the socket `name` in `folder` without waiting; reads of it
/// return at once.
///
/// # Errors
///
/// When nobody listens, or too many wait already.
pub fn connect(folder: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let socket = stream()?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path_beneath(folder, Path::new(name)))?)?;
    Ok(socket)
}

/// Two ends of one connection.
///
/// # Errors
///
/// When the kernel refuses.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn stream() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_any_depth_can_hold_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let folder = std::fs::File::open(&deep).unwrap();
        assert!(connect(&folder, "a.sock").is_err());
        let _listener = listen(&folder, "a.sock").unwrap();
        connect(&folder, "a.sock").unwrap();
        let _again = listen(&folder, "a.sock").unwrap();
        connect(&folder, "a.sock").unwrap();
    }
}
