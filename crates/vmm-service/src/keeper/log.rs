//! A log that never grows beyond two files: what writes into it is a guest.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::sys::files::append_private;

/// Appends to `<name>`; when that is full it becomes `<name>.1`, in place of
/// the one before.
pub(super) struct BoundedLog {
    path: PathBuf,
    limit: u64,
    file: File,
    size: u64,
}

impl BoundedLog {
    /// Goes on with the log that is there.
    pub(super) fn resume(folder: &Path, name: &str, limit: u64) -> io::Result<Self> {
        let path = folder.join(name);
        let file = append_private(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, limit, file, size })
    }

    /// Begins a new log; the one that is there becomes the older one.
    pub(super) fn begin(folder: &Path, name: &str, limit: u64) -> io::Result<Self> {
        let mut log = Self::resume(folder, name, limit)?;
        if log.size > 0 {
            log.rotate()?;
        }
        Ok(log)
    }

    /// Appends all of `bytes`.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.size >= self.limit {
                self.rotate()?;
            }
            let room = usize::try_from(self.limit - self.size).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room.max(1)));
            if let Err(error) = self.file.write_all(now) {
                // A part of it may have found room.
                self.size = self.file.metadata().map_or(self.size, |metadata| metadata.len());
                return Err(error);
            }
            self.size += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut older = self.path.as_os_str().to_owned();
        older.push(".1");
        match std::fs::rename(&self.path, older) {
            // The last time it was moved and no new one could be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        self.file = append_private(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_files_together_hold_the_end_of_what_was_written(
            writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..30),
            limit in 1u64..40,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = BoundedLog::begin(dir.path(), "log", limit).unwrap();
            for (at, write) in writes.iter().enumerate() {
                if at % 7 == 3 {
                    log = BoundedLog::resume(dir.path(), "log", limit).unwrap();
                }
                log.append(write).unwrap();
            }
            let all = writes.concat();
            let new = std::fs::read(dir.path().join("log")).unwrap();
            let old = std::fs::read(dir.path().join("log.1")).unwrap_or_default();
            prop_assert!(new.len() as u64 <= limit && old.len() as u64 <= limit);
            let kept = [old, new].concat();
            prop_assert!(all.ends_with(&kept));
            prop_assert!(kept.len() as u64 >= limit.min(all.len() as u64));
        }
    }

    #[test]
    fn a_log_that_was_taken_away_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BoundedLog::begin(dir.path(), "log", 4).unwrap();
        log.append(b"1234").unwrap();
        std::fs::remove_file(dir.path().join("log")).unwrap();
        log.append(b"56").unwrap();
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"56");
    }

    #[test]
    fn a_new_run_keeps_the_log_of_the_run_before() {
        let dir = tempfile::tempdir().unwrap();
        BoundedLog::begin(dir.path(), "log", 100).unwrap().append(b"one").unwrap();
        BoundedLog::begin(dir.path(), "log", 100).unwrap().append(b"two").unwrap();
        assert_eq!(std::fs::read(dir.path().join("log.1")).unwrap(), b"one");
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"two");
    }
}
