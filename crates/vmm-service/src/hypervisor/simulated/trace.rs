//! What lies in the folder of simulated machines: for each one a file that says
//! whether it runs, its console log, and the socket of its guest.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::hypervisor::{Exit, RunState};

/// What the file of a machine says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// It runs.
    Alive(RunState),
    /// It ran.
    Ended(Exit),
}

/// The folder.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The socket on which a machine's guest is played.
    pub(super) fn guest_channel(&self, id: Uuid) -> PathBuf {
        self.file(id, "sock")
    }

    pub(super) fn log(&self, id: Uuid) -> PathBuf {
        self.file(id, "log")
    }

    /// A machine starts: its console says so, too.
    pub(super) fn begin(&self, id: Uuid, trace: &Trace) -> io::Result<()> {
        std::fs::write(self.log(id), "Booting\n")?;
        self.write(id, trace)
    }

    /// Written whole or not at all, for the daemon may be killed right here.
    pub(super) fn write(&self, id: Uuid, trace: &Trace) -> io::Result<()> {
        let unfinished = self.file(id, "unfinished");
        std::fs::write(&unfinished, trace.to_string())?;
        std::fs::rename(unfinished, self.file(id, "run"))
    }

    /// What the file of a machine says, if there is one.
    pub(super) fn read(&self, id: Uuid) -> io::Result<Option<Trace>> {
        let path = self.file(id, "run");
        match std::fs::read_to_string(&path) {
            Ok(text) => text.parse().map(Some).map_err(|()| {
                io::Error::other(format!("{} says {text:?}, which is no state", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn remove(&self, id: Uuid, with_log: bool) -> io::Result<()> {
        let log = with_log.then(|| self.log(id));
        for path in [Some(self.file(id, "run")), log].into_iter().flatten() {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every machine that has a file or a log.
    pub(super) fn ids(&self) -> io::Result<Vec<Uuid>> {
        let mut ids = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0)? {
            let path = PathBuf::from(entry?.file_name());
            let is_trace = path.extension().is_some_and(|end| end == "run" || end == "log");
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if let Some(Ok(id)) = stem.filter(|_| is_trace).map(Uuid::try_parse) {
                ids.insert(id);
            }
        }
        Ok(ids.into_iter().collect())
    }

    fn file(&self, id: Uuid, end: &str) -> PathBuf {
        self.0.join(format!("{id}.{end}"))
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alive(RunState::Running) => f.write_str("running"),
            Self::Alive(RunState::Paused) => f.write_str("paused"),
            Self::Ended(Exit::Status(status)) => write!(f, "status {status}"),
            Self::Ended(Exit::Signal(signal)) => write!(f, "signal {signal}"),
            Self::Ended(Exit::Unseen) => f.write_str("unseen"),
        }
    }
}

impl std::str::FromStr for Trace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse().map_err(drop);
        Ok(match text.trim_end().split_once(' ') {
            None if text == "running" => Self::Alive(RunState::Running),
            None if text == "paused" => Self::Alive(RunState::Paused),
            None if text == "unseen" => Self::Ended(Exit::Unseen),
            Some(("status", status)) => Self::Ended(Exit::Status(number(status)?)),
            Some(("signal", signal)) => Self::Ended(Exit::Signal(number(signal)?)),
            _ => return Err(()),
        })
    }
}
