//! Whether the host's processor can run guests: found out by running one.
//!
//! `/dev/kvm` may be there and open, and still boot nothing, as under some
//! nested hypervisors. So a guest of one instruction is really booted, under
//! the user and in the sandbox that machines get, and the answer is remembered
//! for this boot of the host.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command_line::{Accel, SANDBOX};
use super::config::AccelChoice;
use super::plan::OPEN_FILES;
use crate::keeper::records;
use crate::sys::confine::{self, Confinement, User};
use crate::sys::process::{Pidfd, boot_id};
use crate::sys::{descriptor, files, kvm};

/// Where the answer is remembered, beside the machines' folders.
const RECORD: &str = "accel.json";

/// How long the tiny guest may take. Where KVM works it ends in a tenth of
/// that, firmware there is none.
const DEADLINE: Duration = Duration::from_secs(3);

/// A processor begins 16 bytes below the end of its firmware, which may have
/// this size.
const FIRMWARE_BYTES: usize = 64 << 10;

/// What the tiny guest tells through the debug port; QEMU then exits with
/// twice that plus one.
const SIGN: u8 = 0x2a;
const EXPECTED_STATUS: i32 = (SIGN as i32) << 1 | 1;

/// How much of QEMU's complaint is told, in bytes.
const COMPLAINT: u64 = 512;

/// What guests run on, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What guests run on.
    pub accel: Accel,
    /// Why, in a sentence.
    pub why: String,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    /// Who could open the device then.
    #[serde(default)]
    door: String,
    qemu: std::path::PathBuf,
    verdict: Verdict,
}

/// What guests run on. Blocks for up to [`DEADLINE`], once per boot of the host.
///
/// # Errors
///
/// When the question itself could not be asked.
pub(super) fn decide(
    choice: AccelChoice,
    qemu: &Path,
    user: &User,
    memory: &Path,
) -> io::Result<Verdict> {
    match choice {
        AccelChoice::Kvm => {
            Ok(Verdict { accel: Accel::Kvm, why: "the configuration says so".into() })
        }
        AccelChoice::Tcg => {
            Ok(Verdict { accel: Accel::Tcg, why: "the configuration says so".into() })
        }
        AccelChoice::Auto => remembered(qemu, user, memory),
    }
}

fn remembered(qemu: &Path, user: &User, memory: &Path) -> io::Result<Verdict> {
    let door = kvm::door();
    if let Some(why) = door.closed() {
        return Ok(Verdict { accel: Accel::Tcg, why });
    }
    let (boot_id, door) = (boot_id()?, door.to_string());
    // An answer that cannot be read is asked for again.
    if let Ok(Some(known)) = records::read::<Remembered>(memory, RECORD)
        && known.boot_id == boot_id
        && known.door == door
        && known.qemu == qemu
    {
        return Ok(known.verdict);
    }
    let verdict = match probe(Accel::Kvm, qemu, user, &firmware(), DEADLINE)? {
        Probe::Booted => Verdict { accel: Accel::Kvm, why: "a tiny guest booted under KVM".into() },
        Probe::Hung => Verdict {
            accel: Accel::Tcg,
            why: format!("a tiny guest under KVM did not boot within {} s", DEADLINE.as_secs()),
        },
        Probe::Failed(complaint) => Verdict {
            accel: Accel::Tcg,
            why: format!("a tiny guest under KVM did not boot: {complaint}"),
        },
    };
    records::write(
        memory,
        RECORD,
        &Remembered { boot_id, door, qemu: qemu.to_owned(), verdict: verdict.clone() },
    )?;
    Ok(verdict)
}

#[derive(Debug, PartialEq, Eq)]
enum Probe {
    Booted,
    Hung,
    Failed(String),
}

fn probe(
    accel: Accel,
    qemu: &Path,
    user: &User,
    firmware: &[u8],
    deadline: Duration,
) -> io::Result<Probe> {
    let firmware = files::in_memory("firmware", firmware)?;
    let arguments = arguments(accel, &descriptor::path_of(firmware.as_raw_fd()));
    let (complaints, output) = io::pipe()?;
    let confinement = Confinement {
        user,
        empty_network: true,
        open_files: OPEN_FILES,
        descriptors: &[firmware.as_raw_fd()],
    };
    let mut child = confine::spawn(qemu, &arguments, OwnedFd::from(output), &confinement)?;
    let pidfd =
        Pidfd::open(child.id())?.ok_or_else(|| io::Error::other("the tiny guest is gone"))?;
    let deadline = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    let ended = descriptor::wait_readable(&[&pidfd], Some(deadline))?;
    if ended.is_empty() {
        pidfd.kill()?;
        child.wait()?;
        return Ok(Probe::Hung);
    }
    let status = child.wait()?;
    if status.code() == Some(EXPECTED_STATUS) {
        return Ok(Probe::Booted);
    }
    let mut complaint = Vec::new();
    File::from(OwnedFd::from(complaints)).take(COMPLAINT).read_to_end(&mut complaint)?;
    let complaint = String::from_utf8_lossy(&complaint).replace(|c: char| c.is_control(), " ");
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => format!("QEMU ended with status {code}"),
        (None, signal) => format!("QEMU ended by signal {}", signal.unwrap_or_default()),
    };
    Ok(Probe::Failed(format!("{end}: {}", complaint.trim())))
}

fn arguments(accel: Accel, firmware: &str) -> Vec<String> {
    let machine = format!("q35,accel={},graphics=off", accel.word());
    let device = r#"{"driver":"isa-debug-exit","iobase":244,"iosize":4}"#;
    [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        &machine,
        "-cpu",
        "max",
        "-m",
        "16M",
        "-sandbox",
        SANDBOX,
        "-bios",
        firmware,
        "-device",
        device,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Firmware whose first instruction tells the sign to the debug port.
fn firmware() -> Vec<u8> {
    // mov al, SIGN; out 0xf4, al; hlt; and again if something wakes it.
    let code = [0xb0, SIGN, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
    with_reset_vector(&code)
}

fn with_reset_vector(code: &[u8]) -> Vec<u8> {
    let mut firmware = vec![0; FIRMWARE_BYTES];
    let start = FIRMWARE_BYTES - 16;
    firmware[start..start + code.len()].copy_from_slice(code);
    firmware
}

#[cfg(test)]
mod tests {
    use super::super::tests::{QEMU, own_user};
    use super::*;

    #[test]
    fn the_tiny_guest_boots_where_everything_boots() {
        let booted =
            probe(Accel::Tcg, Path::new(QEMU), &own_user(), &firmware(), Duration::from_secs(20));
        assert_eq!(booted.unwrap(), Probe::Booted);
    }

    #[test]
    fn a_guest_that_only_spins_counts_as_hung() {
        let spins = with_reset_vector(&[0xeb, 0xfe]);
        let hung =
            probe(Accel::Tcg, Path::new(QEMU), &own_user(), &spins, Duration::from_millis(300));
        assert_eq!(hung.unwrap(), Probe::Hung);
    }

    #[test]
    fn the_answer_is_remembered_for_this_boot_and_this_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let ask = || decide(AccelChoice::Auto, Path::new(QEMU), &own_user(), dir.path()).unwrap();
        if let Some(why) = kvm::door().closed() {
            assert_eq!(ask(), Verdict { accel: Accel::Tcg, why });
            assert!(!dir.path().join(RECORD).exists(), "a closed door is looked at each time");
            return;
        }
        let known = Verdict { accel: Accel::Kvm, why: "a test wrote it".into() };
        let record = |boot_id: String, door: &str| {
            let (door, verdict) = (door.to_owned(), known.clone());
            let record = Remembered { boot_id, door, qemu: QEMU.into(), verdict };
            records::write(dir.path(), RECORD, &record).unwrap();
        };
        let (now, door) = (boot_id().unwrap(), kvm::door().to_string());
        record(now.clone(), &door);
        assert_eq!(ask(), known);
        record(now, "another");
        assert_ne!(ask().why, known.why);
        record("an earlier boot".into(), &door);
        let fresh = ask();
        assert_ne!(fresh.why, known.why);
        assert_eq!(ask(), fresh);
    }
}
