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

/// What one run of a machine has in its folder, beside its console log.
const OF_A_RUN: [&str; 8] = [
    records::QMP_SOCKET,
    records::AGENT_SOCKET,
    records::CONSOLE_SOCKET,
    records::QEMU_LOG,
    records::OLDER_QEMU_LOG,
    records::EXIT,
    records::RUN,
    records::LAUNCH,
];

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

    /// Removes what a run left, but the console log; the folder too when that
    /// is all.
    pub(super) fn clear(&self, id: Uuid) -> io::Result<()> {
        self.clear_run(id)?;
        match std::fs::remove_dir(self.of(id)) {
            Err(error) if !is_absent_or_full(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes what a run left, but the console log. What somebody else put
    /// there stays.
    pub(super) fn clear_run(&self, id: Uuid) -> io::Result<()> {
        let dir = self.of(id);
        // The launch goes last: as long as it is there, the rest is looked for.
        for name in OF_A_RUN {
            for name in [format!("{name}.new"), name.to_owned()] {
                match std::fs::remove_file(dir.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
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

fn is_absent_or_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
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
        for name in ["run.json", "exit.json.new", "qmp.sock", "console.log", "console.log.1"] {
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

    // host-vmm.md 1.5: "Partial failure in start cleaned up things it had not made."
    #[test]
    fn clearing_leaves_what_no_run_made_and_takes_the_launch_last() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = RunDirs::open(&dir.path().join("vms")).unwrap();
        let id = Uuid::from_u128(7);
        let folder = dirs.of(id);
        std::fs::create_dir_all(folder.join("run.json")).unwrap();
        std::fs::write(folder.join("somebody's"), "x").unwrap();
        for name in ["launch.json", "qmp.sock"] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        // A folder in the place of a record cannot be removed: so far it came.
        dirs.clear(id).unwrap_err();
        assert!(!folder.join("qmp.sock").exists());
        assert!(folder.join("launch.json").exists());
        std::fs::remove_dir(folder.join("run.json")).unwrap();
        dirs.clear(id).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["somebody's"]);
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
