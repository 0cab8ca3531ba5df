//! What the daemon and a keeper tell each other, by files in the machine's
//! folder and by one line. A keeper may be older than the daemon that reads its
//! records: fields are only ever added, with a default.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::confine::User;
use crate::sys::files;
use crate::sys::process::Fingerprint;

/// Written by the daemon before it starts a keeper.
pub const LAUNCH: &str = "launch.json";
/// Written by the keeper once QEMU runs.
pub const RUN: &str = "run.json";
/// Written by the keeper once QEMU has ended.
pub const EXIT: &str = "exit.json";
/// The machine's monitor.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The host's end of the agent's port.
pub const AGENT_SOCKET: &str = "agent.sock";
/// The serial console, whose one client is the keeper.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// What came out of the serial console.
pub const CONSOLE_LOG: &str = "console.log";
/// What QEMU itself printed.
pub const QEMU_LOG: &str = "qemu.log";
/// What it printed before that.
pub const OLDER_QEMU_LOG: &str = "qemu.log.1";

/// The longest record that is read. A launch with all its arguments has a few
/// KiB.
const LONGEST_RECORD: u64 = 1 << 20;

/// What a keeper starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// Random, new for each start, and among QEMU's arguments.
    pub token: String,
    /// The machine's name in the host's control groups.
    pub group: String,
    /// QEMU's path.
    pub program: PathBuf,
    /// QEMU's arguments.
    pub arguments: Vec<String>,
    /// Under whom QEMU runs.
    pub user: User,
    /// How many files QEMU may open.
    pub open_files: u64,
    /// Sockets that listen in the folder, by name, and the number under which
    /// QEMU gets each.
    pub listeners: Vec<Listener>,
    /// Files, and the number under which QEMU gets each.
    pub files: Vec<HandedFile>,
    /// Programs that each hold one end of a connection to QEMU.
    pub companions: Vec<Companion>,
    /// The longest that each file of the console log becomes, in bytes.
    pub console_log_bytes: u64,
    /// The longest that each file of QEMU's own log becomes, in bytes.
    pub qemu_log_bytes: u64,
}

/// A socket that listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Its name in the folder.
    pub name: String,
    /// QEMU's number for it.
    pub number: i32,
}

/// A file that is opened for QEMU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandedFile {
    /// Where it is.
    pub path: PathBuf,
    /// QEMU's number for it.
    pub number: i32,
    /// How it is opened.
    pub mode: FileMode,
}

/// How a file is opened for QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileMode {
    /// To be read by this descriptor.
    Read,
    /// To be read and written by this descriptor.
    ReadWrite,
    /// To be opened again by its number, for reading, by QEMU's own user.
    Reopen,
}

/// A program beside QEMU, connected to it by a pair of sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Companion {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments; its end of the pair has the number `number` too.
    pub arguments: Vec<String>,
    /// Under whom it runs.
    pub user: User,
    /// The number of each end, in QEMU and in the companion.
    pub number: i32,
}

/// A machine that runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Random, new for each start, and among QEMU's arguments.
    pub token: String,
    /// QEMU.
    pub qemu: Fingerprint,
    /// Its keeper.
    pub keeper: Fingerprint,
    /// The programs beside it, in the order of its launch.
    #[serde(default)]
    pub companions: Vec<Fingerprint>,
}

/// How QEMU ended. Neither field when nobody saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// By itself, with this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// By this signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// The one line that a keeper prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// QEMU runs.
    Runs {
        /// Which process.
        #[serde(flatten)]
        qemu: Fingerprint,
    },
    /// It does not, and the keeper has ended.
    Failed {
        /// Why, in a sentence.
        #[serde(rename = "error")]
        message: String,
        /// Whether what was asked for is to blame, not the host.
        refused: bool,
    },
}

/// Writes one of the records.
///
/// # Errors
///
/// When it could not be made durable.
pub fn write(folder: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    files::write_atomic(&folder.join(name), &serde_json::to_vec(record)?)
}

/// Reads one of the records. `None` when it was never written.
///
/// # Errors
///
/// When it is there and cannot be read.
pub fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> io::Result<Option<T>> {
    match files::read_bounded(&folder.join(name), LONGEST_RECORD) {
        Ok(content) => Ok(Some(serde_json::from_slice(&content)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_flat() {
        let qemu = Fingerprint { pid: 7, start_time: 8, boot_id: "b".into() };
        let report = Report::Runs { qemu };
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(line, r#"{"pid":7,"start_time":8,"boot_id":"b"}"#);
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
        let failed = Report::Failed { message: "no".into(), refused: true };
        let line = serde_json::to_string(&failed).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), failed);
    }

    #[test]
    fn a_record_that_was_never_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read::<ExitRecord>(dir.path(), EXIT).unwrap(), None);
        write(dir.path(), EXIT, &ExitRecord { status: Some(0), signal: None }).unwrap();
        assert_eq!(read::<ExitRecord>(dir.path(), EXIT).unwrap().unwrap().status, Some(0));
        std::fs::write(dir.path().join(EXIT), "{").unwrap();
        assert!(read::<ExitRecord>(dir.path(), EXIT).is_err());
    }
}
