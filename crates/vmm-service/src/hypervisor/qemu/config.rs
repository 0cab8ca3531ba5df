//! The section `[qemu]` of the daemon's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a machine's run is kept: a memory file system, since nothing in it
/// outlives a boot of the host; the name is the one operators know.
const DEFAULT_VM_DIR: &str = "/run/form-vm";

/// The first user id for machines: above those that systemd gives to
/// containers (up to 1,879,048,191), below the end of signed 32-bit numbers, so
/// that no account of a host lies there.
const DEFAULT_FIRST_UID: u32 = 1_900_000_000;

/// How many user ids: two for each machine, so 4,096 machines at a time.
const DEFAULT_UIDS: u32 = 8192;

/// One MiB for the console's newest lines and one for those before: a few boots
/// of a chatty kernel.
const DEFAULT_CONSOLE_LOG_BYTES: u64 = 1 << 20;

/// Less than this does not hold one boot's messages.
const LEAST_CONSOLE_LOG_BYTES: u64 = 4 << 10;

/// More than this per machine fills a host's memory.
const MOST_CONSOLE_LOG_BYTES: u64 = 1 << 30;

/// The highest user id there is, less the one that means "none".
const HIGHEST_UID: u32 = u32::MAX - 1;

/// How machines are run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QemuConfig {
    /// QEMU: a path, or a name that is looked for in PATH.
    pub binary: PathBuf,
    /// passt: a path, or a name that is looked for in PATH. Needed only by
    /// machines with a network interface of that kind.
    pub passt: PathBuf,
    /// Whether the host's processor runs the guests.
    pub accel: AccelChoice,
    /// The folder with one folder for each machine.
    pub vm_dir: PathBuf,
    /// The first of the user ids (and group ids) under which machines run. No
    /// account of the host may lie in the range.
    pub first_uid: u32,
    /// How many there are; each machine takes two.
    pub uids: u32,
    /// How long the console log becomes before it is turned over, in bytes. One
    /// older file of that length is kept.
    pub console_log_bytes: u64,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            binary: "qemu-system-x86_64".into(),
            passt: "passt".into(),
            accel: AccelChoice::Auto,
            vm_dir: DEFAULT_VM_DIR.into(),
            first_uid: DEFAULT_FIRST_UID,
            uids: DEFAULT_UIDS,
            console_log_bytes: DEFAULT_CONSOLE_LOG_BYTES,
        }
    }
}

/// Whether the host's processor runs the guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// It does if a tiny guest that was really booted says so; once per boot of
    /// the host.
    #[default]
    Auto,
    /// It does; machines do not start otherwise.
    Kvm,
    /// It does not: slow, and works everywhere.
    Tcg,
}

/// Something wrong in the section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which key of the section.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl QemuConfig {
    /// Everything that is wrong, without looking at the host.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |key, detail: String| mistakes.push(Mistake { key, detail });
        if !self.vm_dir.is_absolute() {
            wrong(
                "vm_dir",
                format!(
                    "{} is not absolute; write a path that begins with /",
                    self.vm_dir.display()
                ),
            );
        }
        for (key, path) in [("binary", &self.binary), ("passt", &self.passt)] {
            if path.as_os_str().is_empty() {
                wrong(key, "it is empty; write a name or a path".into());
            } else if !path.is_absolute() && path.components().count() > 1 {
                wrong(key, format!("{} is neither a name nor an absolute path", path.display()));
            }
        }
        if self.first_uid == 0 {
            wrong("first_uid", "0 is root, under whom no machine runs".into());
        }
        if self.uids < 2 {
            wrong("uids", format!("{} is too few: each machine takes two", self.uids));
        }
        if self.first_uid.checked_add(self.uids).is_none_or(|end| end > HIGHEST_UID) {
            wrong("uids", format!("first_uid + uids passes {HIGHEST_UID}, the highest user id"));
        }
        if !(LEAST_CONSOLE_LOG_BYTES..=MOST_CONSOLE_LOG_BYTES).contains(&self.console_log_bytes) {
            wrong(
                "console_log_bytes",
                format!(
                    "{} is outside of {LEAST_CONSOLE_LOG_BYTES} to {MOST_CONSOLE_LOG_BYTES}",
                    self.console_log_bytes
                ),
            );
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(QemuConfig::default().mistakes(), []);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let config = QemuConfig {
            binary: "bin/qemu".into(),
            passt: "".into(),
            accel: AccelChoice::Auto,
            vm_dir: "run".into(),
            first_uid: 0,
            uids: 1,
            console_log_bytes: 1,
        };
        let keys: Vec<_> = config.mistakes().iter().map(|mistake| mistake.key).collect();
        assert_eq!(keys, ["vm_dir", "binary", "passt", "first_uid", "uids", "console_log_bytes"]);
        let config = QemuConfig { first_uid: u32::MAX - 10, ..QemuConfig::default() };
        assert_eq!(config.mistakes().len(), 1);
    }

    #[test]
    fn it_reads_as_an_operator_writes_it() {
        let config: QemuConfig = toml::from_str("accel = \"tcg\"\nvm_dir = \"/tmp/vms\"").unwrap();
        assert_eq!(config.accel, AccelChoice::Tcg);
        assert_eq!(config.uids, QemuConfig::default().uids);
        assert!(toml::from_str::<QemuConfig>("acel = \"tcg\"").is_err());
    }
}
