//! What all machines of this host share: QEMU itself, their folders, their
//! users. Everything here blocks.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::{Launch, MachineError, StartError};
use super::LOOK;
use super::accel::{self, Verdict};
use super::ask::ask;
use super::command_line::MachineType;
use super::config::QemuConfig;
use super::keeper_process;
use super::monitor::LAST_RECORD;
use super::plan::{self, plan};
use super::run_dir::RunDirs;
use super::trace::{self, Trace};
use super::users::UserPool;
use crate::keeper::records::{self, LaunchRecord, Report};
use crate::sys::confine::User;
use crate::sys::process::Pidfd;
use crate::sys::{files, kvm};

/// How long QEMU may take to tell what it can do: it answers within a tenth of a
/// second, from a slow disk within some.
const ANSWER: Duration = Duration::from_secs(20);

/// This host, as machines see it.
pub(super) struct Host {
    pub(super) verdict: Verdict,
    pub(super) machine_type: MachineType,
    pub(super) dirs: RunDirs,
    qemu: PathBuf,
    passt: PathBuf,
    console_log_bytes: u64,
    users: Mutex<UserPool>,
}

/// Why QEMU cannot be used on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A program is not installed.
    #[error("{0} is not installed; install the package qemu-system-x86, or set qemu.binary")]
    NoQemu(PathBuf),
    /// QEMU knows no versioned q35 machine.
    #[error(
        "{0} offers no machine type such as pc-q35-7.2; Infinibay needs QEMU 7.2 or newer for x86-64"
    )]
    NoMachineType(PathBuf),
    /// Only root can give machines users of their own.
    #[error(
        "machines are started by root, who gives each a user of its own; run vmm-service as root"
    )]
    NotRoot,
    /// The host failed.
    #[error("{context}")]
    Host {
        /// What was being done.
        context: String,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
}

/// Why there is no keeper, and what there is instead.
pub(super) enum NotLaunched {
    /// Nothing was touched.
    Untouched(StartError),
    /// There is something to undo.
    Begun(StartError),
}

impl Host {
    pub(super) fn open(config: &QemuConfig) -> Result<Self, OpenError> {
        let failed = |context: String| move |source| OpenError::Host { context, source };
        if !crate::sys::process::is_root() {
            return Err(OpenError::NotRoot);
        }
        let qemu = files::program(&config.binary)
            .ok_or_else(|| OpenError::NoQemu(config.binary.clone()))?;
        let dirs = RunDirs::open(&config.vm_dir)
            .map_err(failed(format!("the folder {} cannot be used", config.vm_dir.display())))?;
        let machine_type = newest_machine_type(&qemu)
            .map_err(failed(format!(
                "{} could not be asked for its machine types",
                qemu.display()
            )))?
            .ok_or_else(|| OpenError::NoMachineType(qemu.clone()))?;
        let prober = User {
            uid: config.first_uid,
            gid: config.first_uid,
            groups: kvm::group().into_iter().collect(),
        };
        let verdict = accel::decide(config.accel, &qemu, &prober, dirs.root())
            .map_err(failed("no guest could be booted to see whether KVM works".into()))?;
        let mut users = UserPool::new(config.first_uid, config.uids);
        for id in
            dirs.all().map_err(failed(format!("{} cannot be read", config.vm_dir.display())))?
        {
            if let Ok(Some(launch)) = records::read::<LaunchRecord>(&dirs.of(id), records::LAUNCH) {
                users.note(id, launch.user.uid);
            }
        }
        Ok(Self {
            verdict,
            machine_type,
            dirs,
            qemu,
            passt: config.passt.clone(),
            console_log_bytes: config.console_log_bytes,
            users: Mutex::new(users),
        })
    }

    /// Starts the machine's keeper, which starts QEMU.
    pub(super) fn launch(&self, launch: &Launch) -> Result<Pidfd, NotLaunched> {
        let id = launch.id;
        let dir = self.dirs.of(id);
        match trace::of(&dir) {
            Trace::None | Trace::Gone => {}
            Trace::Runs(record, _) => {
                let why = format!("the VM runs already, as process {}", record.qemu.pid);
                return Err(NotLaunched::Untouched(StartError::Refused(why)));
            }
            Trace::Unknown { why, .. } => {
                return Err(NotLaunched::Untouched(StartError::Refused(why)));
            }
        }
        let record = self.plan(launch).map_err(|error| {
            self.give_back_users_of(id, &dir);
            NotLaunched::Untouched(error)
        })?;
        self.begin(id, &dir, &record).map_err(NotLaunched::Begun)
    }

    fn plan(&self, launch: &Launch) -> Result<LaunchRecord, StartError> {
        let groups = kvm::group().filter(|_| self.verdict.accel == super::command_line::Accel::Kvm);
        let users = self.users().take(launch.id, groups.into_iter().collect());
        let users = users.ok_or_else(|| {
            StartError::Refused(
                "all user ids for machines are taken; raise qemu.uids in the configuration".into(),
            )
        })?;
        let passt = files::program(&self.passt);
        let host = plan::Host {
            qemu: &self.qemu,
            passt: passt.as_deref(),
            accel: self.verdict.accel,
            console_log_bytes: self.console_log_bytes,
        };
        // Random and long, so that no other process has it among its arguments.
        let token = Uuid::new_v4().simple().to_string();
        plan(launch, token, users, &host).map_err(StartError::Refused)
    }

    fn begin(&self, id: Uuid, dir: &Path, record: &LaunchRecord) -> Result<Pidfd, StartError> {
        let failed = |context: &str| {
            let context = context.to_owned();
            move |source: io::Error| StartError::Failed { context, source: source.into() }
        };
        files::private_dir(dir).map_err(failed("the machine's folder could not be made"))?;
        // A keeper that a killed daemon had just started must not begin while
        // the records change under it.
        let lock = lock_in_time(dir)
            .and_then(|lock| lock.ok_or_else(|| io::Error::other("an earlier keeper is in it")))
            .map_err(failed("the machine's folder could not be locked"))?;
        self.dirs
            .clear_run(id)
            .map_err(failed("what the last run left behind could not be removed"))?;
        records::write(dir, records::LAUNCH, record)
            .map_err(failed("the machine's launch could not be written"))?;
        drop(lock);
        match keeper_process::launch(dir, &id.to_string(), false) {
            Ok((keeper, Report::Runs { .. })) => Ok(keeper),
            Ok((_, Report::Failed { message, refused: true })) => Err(StartError::Refused(message)),
            Ok((_, Report::Failed { message, refused: false })) => {
                Err(failed("the machine's keeper could not start it")(io::Error::other(message)))
            }
            Err(error) => Err(failed("the machine's keeper could not be started")(error)),
        }
    }

    /// Removes what a machine left behind, unless it may be alive.
    pub(super) fn remove(
        &self,
        id: Uuid,
        remove: fn(&RunDirs, Uuid) -> io::Result<()>,
    ) -> Result<(), MachineError> {
        let dir = self.dirs.of(id);
        let failed = |what| {
            let dir = dir.display().to_string();
            move |error| MachineError::Os(format!("{dir} could not be {what}"), error)
        };
        // Held, so that no late keeper starts a machine while its folder goes.
        let (_lock, trace) = match lock_in_time(&dir) {
            Ok(Some(lock)) => (Some(lock), trace::of_locked(&dir)),
            Ok(None) => (None, trace::of(&dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Trace::None),
            Err(error) => return Err(failed("locked")(error)),
        };
        match trace {
            Trace::None | Trace::Gone => {}
            Trace::Runs(record, _) => {
                return Err(MachineError::Unidentified(format!(
                    "it still runs, as process {}",
                    record.qemu.pid
                )));
            }
            Trace::Unknown { why, .. } => return Err(MachineError::Unidentified(why)),
        }
        remove(&self.dirs, id).map_err(failed("removed"))?;
        self.users().give_back(id);
        Ok(())
    }

    fn give_back_users_of(&self, id: Uuid, dir: &Path) {
        if !dir.join(records::LAUNCH).exists() {
            self.users().give_back(id);
        }
    }

    fn users(&self) -> MutexGuard<'_, UserPool> {
        // Each change of the pool is whole, whatever happens to its thread.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the lock of a machine's folder; a keeper lets go of it when its QEMU
/// has ended and that is written down. `None` when it did not in time.
fn lock_in_time(dir: &Path) -> io::Result<Option<File>> {
    let deadline = Instant::now() + LAST_RECORD;
    loop {
        match files::lock_dir(dir)? {
            None if Instant::now() < deadline => std::thread::park_timeout(LOOK),
            lock => return Ok(lock),
        }
    }
}

/// Runs something that blocks where that holds up nothing else.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn newest_machine_type(qemu: &Path) -> io::Result<Option<MachineType>> {
    Ok(newest(&ask(qemu, &["-machine", "help"], ANSWER)?))
}

fn newest(help: &str) -> Option<MachineType> {
    help.lines()
        .filter(|line| !line.contains("deprecated"))
        .filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_machine_type_is_chosen_by_its_version() {
        let help = "Supported machines are:\npc   Standard PC (alias of pc-i440fx-7.2)\n\
                    q35  Standard PC (Q35) (alias of pc-q35-10.1)\npc-q35-9.2  Standard PC\n\
                    pc-q35-10.1  Standard PC\npc-q35-11.0  Standard PC (deprecated)\n";
        assert_eq!(newest(help).unwrap().to_string(), "pc-q35-10.1");
        assert_eq!(newest("none  empty machine\n"), None);
    }
}
