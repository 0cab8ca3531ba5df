//! Files that must survive a crash, and files that others chose: written
//! atomically, opened without being fooled, read with a limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, MemfdFlags, OFlags, SealFlags};

/// Only the owner may read and write.
const PRIVATE_FILE: u32 = 0o600;
/// Only the owner may enter.
const PRIVATE_DIR: u32 = 0o700;
/// The bit by which a file may be read by everybody.
const READABLE_BY_ALL: u32 = 0o004;

/// Writes a file so that after a crash either the old or the new content is
/// there, never a mixture: a new file, synced, renamed, its folder synced. Only
/// the owner may read it.
///
/// # Errors
///
/// When any of that fails; the old content is untouched then.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("the file has no folder"))?;
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".new");
    let scratch = PathBuf::from(scratch);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&scratch)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&scratch, path)?;
    sync_folder(folder)
}

/// Has the names that are in a folder survive a power cut, on file systems that
/// know how; some say that they do not.
///
/// # Errors
///
/// When the folder cannot be read or the disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Reads a whole file of ours, refusing links and more than `limit` bytes.
///
/// # Errors
///
/// When it is not there, is a link, cannot be read, or is too long.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the file is longer than {limit} bytes"),
        ));
    }
    Ok(content)
}

/// Opens the file at `path` for appending, making it if need be; only the owner
/// may read it.
///
/// # Errors
///
/// When it cannot be opened, or is a link.
pub fn append_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE_FILE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Makes a folder that only the owner may enter, with its parents. It may be
/// there already.
///
/// # Errors
///
/// When it cannot be made, or somebody else owns it, or others may write to it.
pub fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path)?;
    let metadata = std::fs::metadata(path)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the folder belongs to user {}", metadata.uid()),
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others may write to the folder; take that right away with chmod go-w",
        ));
    }
    Ok(())
}

/// Takes the lock of a folder for as long as the returned file lives. `None`
/// when somebody else holds it.
///
/// # Errors
///
/// When the folder cannot be opened.
pub fn lock_dir(path: &Path) -> io::Result<Option<File>> {
    let dir = File::open(path)?;
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(dir)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How a file that an operator named is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read.
    Read,
    /// To be read and written.
    ReadWrite,
}

/// What an operator's path turned out to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It could not be opened.
    #[error("{path} could not be opened", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a pipe, or something else that holds no data.
    #[error("{path} is neither a file nor a block device", path = .0.display())]
    NoData(PathBuf),
}

/// Opens a file or block device that an operator named. Never waits, as a pipe
/// in its place would make a plain open do.
///
/// # Errors
///
/// [`OpenError`] names the path.
pub fn open_data(path: &Path, access: Access) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::ReadWrite)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NoData(path.to_owned()));
    }
    Ok(file)
}

/// The file itself when everybody may read it, else a sealed copy in memory
/// that everybody may read: for a process that opens it again by its descriptor
/// under a user who has no right to the original.
///
/// # Errors
///
/// When the copy could not be made.
pub fn readable_by_all(mut file: File) -> io::Result<OwnedFd> {
    if file.metadata()?.mode() & READABLE_BY_ALL != 0 {
        return Ok(file.into());
    }
    sealed("copy", &mut file)
}

/// A sealed file in memory that everybody may read.
///
/// # Errors
///
/// When the kernel refuses.
pub fn in_memory(name: &str, mut content: &[u8]) -> io::Result<OwnedFd> {
    sealed(name, &mut content)
}

fn sealed(name: &str, content: &mut impl io::Read) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    io::copy(content, &mut memory)?;
    memory.rewind()?;
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(memory.into())
}

/// Where a program is: `name` itself when it is a path, else looked for in PATH.
/// `None` when it is not there or cannot be run.
pub fn program(name: &Path) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    };
    if name.is_absolute() {
        return Some(name.to_owned()).filter(runs);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(runs)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_atomic_write_replaces_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no scratch file is left");
    }

    #[test]
    fn a_link_in_the_place_of_a_record_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert!(read_bounded(&link, 100).is_err());
        assert!(append_private(&link).is_err());
    }

    #[test]
    fn a_record_longer_than_its_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        std::fs::write(&path, "1234").unwrap();
        assert!(read_bounded(&path, 3).is_err());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_disk_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(open_data(&path, Access::Read), Err(OpenError::NoData(_))));
        assert!(matches!(open_data(dir.path(), Access::Read), Err(OpenError::NoData(_))));
    }

    #[test]
    fn a_private_file_is_copied_and_the_copy_cannot_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, "kernel").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let copy = readable_by_all(File::open(&path).unwrap()).unwrap();
        let by_name = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert_eq!(std::fs::read(&by_name).unwrap(), b"kernel");
        assert_ne!(
            std::fs::metadata(&by_name).unwrap().ino(),
            std::fs::metadata(&path).unwrap().ino()
        );
        assert!(File::from(copy).write_all(b"x").is_err());
    }

    #[test]
    fn a_folder_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock_dir(dir.path()).unwrap();
        assert!(lock.is_some());
        assert!(lock_dir(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(lock_dir(dir.path()).unwrap().is_some());
    }
}
