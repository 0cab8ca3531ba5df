//! One folder per machine: where its sockets, records and logs are, and what is
//! left of them when.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::keeper::records;
use crate::sys::socket::LONGEST_PATH;
use crate::sys::{cgroup, descriptor, files};

/// How much of QEMU's own log is told when it ended too early, in bytes.
const LAST_LINES: usize = 1024;

/// All machines' folders.
pub(super) struct RunDirs {
    root: PathBuf,
    handle: File,
}

impl RunDirs {
    /// Makes the folder of folders if need be.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        files::private_dir(root)?;
        Ok(Self { root: root.to_owned(), handle: File::open(root)? })
    }

    /// The folder of folders.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A machine's folder, whether or not it is there.
    pub(super) fn of(&self, id: Uuid) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Where a machine's socket is to be connected: its path, or a shorter one
    /// to the same when the path is longer than an address holds.
    pub(super) fn socket(&self, id: Uuid, name: &str) -> PathBuf {
        let path = self.of(id).join(name);
        if path.as_os_str().len() <= LONGEST_PATH {
            return path;
        }
        descriptor::path_beneath(&self.handle, &Path::new(&id.to_string()).join(name))
    }

    /// Every machine that has a folder.
    pub(super) fn all(&self) -> io::Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            ids.extend(Uuid::try_parse(name).ok().filter(|id| id.to_string() == name));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The console log's files, oldest first.
    pub(super) fn console_log(&self, id: Uuid) -> Vec<PathBuf> {
        let current = self.of(id).join(records::CONSOLE_LOG);
        let older = self.of(id).join(format!("{}.1", records::CONSOLE_LOG));
        [older, current].into_iter().filter(|path| path.exists()).collect()
    }

    /// Removes everything but the console log; the folder too when that is all.
    pub(super) fn clear(&self, id: Uuid) -> io::Result<()> {
        let dir = self.of(id);
        let keep = self.console_log(id);
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if !keep.contains(&path) {
                std::fs::remove_file(path)?;
            }
        }
        if keep.is_empty() {
            std::fs::remove_dir(&dir)?;
        }
        cgroup::remove(&id.to_string())
    }

    /// Removes everything.
    pub(super) fn purge(&self, id: Uuid) -> io::Result<()> {
        match std::fs::remove_dir_all(self.of(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        cgroup::remove(&id.to_string())
    }

    /// The last lines that QEMU itself printed, fit to be shown.
    pub(super) fn last_words(&self, id: Uuid) -> String {
        let log = std::fs::read(self.of(id).join(records::QEMU_LOG)).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LAST_LINES)..];
        String::from_utf8_lossy(tail)
            .chars()
            .map(|c| if c == '\n' { ' ' } else { c })
            .filter(|c| !c.is_control())
            .collect::<String>()
            .trim()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clearing_keeps_the_console_log_and_purging_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("vms");
        let dirs = RunDirs::open(&root).unwrap();
        let id = Uuid::from_u128(7);
        dirs.clear(id).unwrap();
        std::fs::create_dir(dirs.of(id)).unwrap();
        for name in ["run.json", "qmp.sock", "console.log", "console.log.1"] {
            std::fs::write(dirs.of(id).join(name), "x").unwrap();
        }
        std::fs::write(root.join("accel.json"), "").unwrap();
        assert_eq!(dirs.all().unwrap(), [id]);
        dirs.clear(id).unwrap();
        dirs.clear(id).unwrap();
        let names: Vec<_> =
            dirs.console_log(id).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["console.log.1", "console.log"]);
        assert_eq!(std::fs::read_dir(dirs.of(id)).unwrap().count(), 2);
        dirs.purge(id).unwrap();
        dirs.purge(id).unwrap();
        assert!(dirs.all().unwrap().is_empty());
    }

    #[test]
    fn what_qemu_printed_is_shown_without_escapes() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = RunDirs::open(&dir.path().join("vms")).unwrap();
        let id = Uuid::from_u128(7);
        assert_eq!(dirs.last_words(id), "");
        std::fs::create_dir(dirs.of(id)).unwrap();
        std::fs::write(dirs.of(id).join("qemu.log"), "one\x1b[2J\ntwo\n").unwrap();
        assert_eq!(dirs.last_words(id), "one[2J two");
    }
}
