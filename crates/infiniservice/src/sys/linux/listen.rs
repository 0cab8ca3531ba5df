//! A unix socket that the agent listens on, for a host without virtio-serial
//! and for tests: only root and the agent's own user may connect.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixListener;

use super::port::Port;

/// A socket at a path, which is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A socket that an earlier run left there is replaced;
    /// one that is still listened on is not.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if is_left_over(path) {
            std::fs::remove_file(path)?;
        }
        // The mode must hold from the first moment, so it is not set afterwards.
        let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let socket = UnixListener::bind(path);
        rustix::process::umask(before);
        Ok(Self { socket: socket?, path: path.to_owned() })
    }

    /// Waits for the next connection of somebody who may connect.
    pub async fn accept(&self) -> io::Result<Port> {
        loop {
            let (connection, _) = self.socket.accept().await?;
            let peer = socket_peercred(&connection)?.uid;
            if !peer.is_root() && peer != rustix::process::geteuid() {
                tracing::warn!(
                    uid = peer.as_raw(),
                    "A user who may not command this agent connected and was turned away."
                );
                continue;
            }
            return Port::from_socket(OwnedFd::from(connection.into_std()?));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed it, and then there is nothing to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_left_over(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::UnixStream;
    let is_socket = path.symlink_metadata().is_ok_and(|it| it.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_socket_is_private_and_replaces_only_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Listener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
    }
}
