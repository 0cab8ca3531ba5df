//! What makes the daemon the only one: locks on its folders, and a socket that
//! is never there half-made.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;

use crate::sys::files;

/// How long a lock may still be held by what a killed daemon left: a child takes
/// milliseconds to become another program, and longer on a busy host.
const CHILDREN: Duration = Duration::from_secs(2);

/// How often a lock that is held is tried again.
const LOOK: Duration = Duration::from_millis(10);

/// A lock on something of the daemon's. The kernel lets go of it with the
/// process, however that ends.
#[derive(Debug)]
pub struct Lock {
    /// Held by being open.
    _file: File,
}

/// Makes a folder that only its owner may enter, with those above it, if it is
/// not there.
pub fn private_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| keep_name(path))
        .with_context(|| format!("the folder {} could not be made", path.display()))
}

/// Has the names of a folder, and of those above it, survive a power cut: what
/// is in a folder whose name is lost is lost, too.
fn keep_name(path: &Path) -> std::io::Result<()> {
    path.ancestors().skip(1).try_for_each(files::sync_folder)
}

/// Locks a folder, so that a second daemon cannot use it.
pub fn lock_folder(path: &Path) -> Result<Lock> {
    let folder =
        File::open(path).with_context(|| format!("{} could not be opened", path.display()))?;
    lock(folder, path)
}

/// Locks the folder of a state file, which is made if it is not there.
pub fn lock_state(state: &Path) -> Result<Lock> {
    let folder = state.parent().context("the state file has no folder")?;
    private_folder(folder)?;
    lock_folder(folder)
}

/// Locks the folder of the machines, which is made if it is not there. `None` when
/// it is the folder of the state as well, which is locked already.
pub fn lock_machines(machines: &Path, state: Option<&Path>) -> Result<Option<Lock>> {
    private_folder(machines)?;
    let same = |folder: &Path| std::fs::canonicalize(folder).ok();
    match state.and_then(Path::parent).and_then(same) {
        Some(folder) if Some(&folder) == same(machines).as_ref() => Ok(None),
        _ => lock_folder(machines).map(Some),
    }
}

/// Locks the name of a socket. The file beside it stays: who removes a lock
/// file may remove another's.
pub fn lock_socket(socket: &Path) -> Result<Lock> {
    let folder = socket.parent().context("the socket has no folder")?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("the folder {} could not be made", folder.display()))?;
    let path = socket.with_added_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("{} could not be opened", path.display()))?;
    lock(file, socket)
}

/// Binds the socket, for its owner only from its first moment: it is made in a
/// private folder and then moved to its name, over the one that a daemon left
/// that was killed. The caller holds the lock on it.
pub fn bind(socket: &Path) -> Result<UnixListener> {
    let could_not = || format!("the socket {} could not be made", socket.display());
    match std::fs::symlink_metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} is there and is no socket: remove it or name another", socket.display());
        }
        _ => {}
    }
    let folder = socket.parent().context("the socket has no folder")?;
    let private = folder.join(format!(".{}", std::process::id()));
    // A daemon of the same process id may have been killed right here.
    let _ = std::fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private).with_context(could_not)?;
    let made = private.join("s");
    let bound = UnixListener::bind(&made).and_then(|listener| {
        std::fs::set_permissions(&made, Permissions::from_mode(0o600))?;
        std::fs::rename(&made, socket)?;
        Ok(listener)
    });
    let cleared = std::fs::remove_dir_all(&private);
    let listener = bound.with_context(could_not)?;
    cleared.with_context(|| format!("{} could not be removed", private.display()))?;
    Ok(listener)
}

/// A daemon that was killed while it started another program leaves a child
/// that holds its locks until it has become that program.
fn try_lock_in_time(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + CHILDREN;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::park_timeout(LOOK);
            }
            outcome => return outcome,
        }
    }
}

fn lock(file: File, what: &Path) -> Result<Lock> {
    match try_lock_in_time(&file) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => bail!(
            "another vmm-service uses {}: stop that one, or give this one another state \
             (VMM_STATE_URL), socket (VMM_SOCKET) and folder of machines (VMM_VM_DIR)",
            what.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} could not be locked", what.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_what_is_in_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock_folder(folder.path()).unwrap();
        let error = lock_folder(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("another vmm-service uses"), "{error}");
        drop(held);
        lock_folder(folder.path()).unwrap();
    }

    #[test]
    fn state_and_machines_may_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.db");
        let _state = lock_state(&state).unwrap();
        assert!(lock_machines(folder.path(), Some(&state)).unwrap().is_none());
        assert!(lock_machines(folder.path(), None).is_err());
        assert!(lock_machines(&folder.path().join("vms"), Some(&state)).unwrap().is_some());
    }

    #[test]
    fn what_a_killed_daemon_left_behind_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        // The lock is its child's, too, until that has become another program.
        let held = lock_folder(folder.path()).unwrap();
        let child = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(50));
            drop(held);
        });
        lock_folder(folder.path()).unwrap();
        child.join().unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vmm.sock");
        drop(bind(&socket).unwrap());
        let listener = bind(&socket).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        tokio::net::UnixStream::connect(&socket).await.unwrap();
        drop(listener);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "somebody's").unwrap();
        assert!(bind(&socket).unwrap_err().to_string().contains("is no socket"));
    }
}
