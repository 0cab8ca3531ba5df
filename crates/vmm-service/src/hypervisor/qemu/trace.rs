//! What the records in a machine's folder, and the processes they name, say of
//! the machine.

use std::io;
use std::path::Path;

use crate::keeper::records::{self, LaunchRecord, RunRecord};
use crate::sys::files;
use crate::sys::process::{self, Fingerprint, Identity, Pidfd};

use super::command_line::identity;

/// What is known of a machine.
pub(super) enum Trace {
    /// It has never run, or that was cleared away.
    None,
    /// It ran, and runs no more.
    Gone,
    /// It runs, as this process.
    Runs(RunRecord, Pidfd),
    /// Something is there that may be it.
    Unknown {
        /// Why that cannot be told.
        why: String,
        /// The process, if it is about to end and to be asked again then.
        held: Option<Pidfd>,
    },
}

/// What is known of the machine in `dir`.
pub(super) fn of(dir: &Path) -> Trace {
    recorded(dir, unrecorded)
}

/// The same for who holds the lock of `dir`.
pub(super) fn of_locked(dir: &Path) -> Trace {
    recorded(dir, unrecorded_locked)
}

fn recorded(dir: &Path, unrecorded: fn(&Path) -> Trace) -> Trace {
    match records::read::<RunRecord>(dir, records::RUN) {
        Ok(Some(record)) => of_record(record),
        Ok(None) => unrecorded(dir),
        Err(error) => {
            unknown(format!("{} cannot be read: {error}", dir.join(records::RUN).display()))
        }
    }
}

/// The machine in `dir`, which must run.
pub(super) fn found(dir: &Path) -> io::Result<(RunRecord, Pidfd)> {
    match of(dir) {
        Trace::Runs(record, pidfd) => Ok((record, pidfd)),
        Trace::Unknown { why, .. } => Err(io::Error::other(why)),
        Trace::None | Trace::Gone => Err(io::Error::other("its process is gone")),
    }
}

/// The keeper of the machine in `dir`, if it lives.
pub(super) fn keeper_of(dir: &Path) -> Option<Pidfd> {
    let record = records::read::<RunRecord>(dir, records::RUN).ok()??;
    // Its folder is among its arguments.
    match hold(&record.keeper, dir.to_str()?) {
        Ok((Identity::Match, pidfd)) => pidfd,
        _ => None,
    }
}

fn of_record(record: RunRecord) -> Trace {
    match hold(&record.qemu, &identity(&record.token)) {
        Ok((Identity::Match, Some(pidfd))) => Trace::Runs(record, pidfd),
        Ok((Identity::Match | Identity::Gone(_), _)) => Trace::Gone,
        Ok((Identity::Unknown(why), held)) => Trace::Unknown { why, held },
        Err(error) => unknown(format!("process {} cannot be held: {error}", record.qemu.pid)),
    }
}

/// First the hold, then the question: what was identified is what is held.
fn hold(fingerprint: &Fingerprint, token: &str) -> io::Result<(Identity, Option<Pidfd>)> {
    let pidfd = Pidfd::open(fingerprint.pid)?;
    Ok((fingerprint.identify(token), pidfd))
}

/// A keeper that was killed at the wrong moment leaves a QEMU without a record.
fn unrecorded(dir: &Path) -> Trace {
    // Held until the record is there: no other keeper comes in between.
    let _lock = match files::lock_dir(dir) {
        Ok(Some(lock)) => lock,
        Ok(None) => return unknown("a keeper is starting the machine".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Trace::None,
        Err(error) => return unknown(format!("{} cannot be locked: {error}", dir.display())),
    };
    // Its record may have come before the lock.
    of_locked(dir)
}

fn unrecorded_locked(dir: &Path) -> Trace {
    let launch = match records::read::<LaunchRecord>(dir, records::LAUNCH) {
        Ok(Some(launch)) => launch,
        Ok(None) => return Trace::None,
        Err(error) => {
            return unknown(format!(
                "{} cannot be read: {error}",
                dir.join(records::LAUNCH).display()
            ));
        }
    };
    match process::find(&identity(&launch.token), launch.user.uid) {
        Ok(None) => Trace::Gone,
        Ok(Some(fingerprint)) => recovered(dir, launch, fingerprint),
        Err(error) => unknown(format!("the machine's process cannot be looked for: {error}")),
    }
}

/// Writes the record that the keeper could not write any more. What the process
/// has among its arguments anybody could have; its user only this machine has.
fn recovered(dir: &Path, launch: LaunchRecord, qemu: Fingerprint) -> Trace {
    let keeper = Fingerprint::nobody(&qemu);
    let record = RunRecord { token: launch.token, qemu, keeper, companions: Vec::new() };
    match records::write(dir, records::RUN, &record) {
        Ok(()) => of_record(record),
        Err(error) => unknown(format!(
            "process {} is this machine, but {} could not be written: {error}",
            record.qemu.pid,
            dir.join(records::RUN).display()
        )),
    }
}

fn unknown(why: String) -> Trace {
    Trace::Unknown { why, held: None }
}
