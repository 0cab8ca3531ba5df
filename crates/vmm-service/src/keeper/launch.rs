//! From `launch.json` to a QEMU that runs; or from `run.json` back to one that
//! runs already.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Child;

use super::log::BoundedLog;
use super::records::{self, FileMode, HandedFile, LaunchRecord, RunRecord};
use super::{Beside, KeepError, Kept};
use crate::sys::confine::{self, Confinement};
use crate::sys::files::{self, Access, OpenError};
use crate::sys::process::{Fingerprint, Identity, Pidfd};
use crate::sys::{cgroup, descriptor, fence, socket};

/// How many files a companion may open: passt has one per connection.
const COMPANION_OPEN_FILES: u64 = 8192;

/// Where the keeper writes.
pub(super) struct Logs {
    pub(super) console: BoundedLog,
    pub(super) qemu: BoundedLog,
    pub(super) folder: std::path::PathBuf,
}

/// Starts the machine.
pub(super) fn start(dir: &Path) -> Result<Kept, KeepError> {
    let folder = lock(dir)?;
    let launch = read_launch(dir)?;
    cgroup::enter(&launch.group)
        .map_err(KeepError::because("the host's control groups cannot be read"))?;
    let logs = Logs {
        console: BoundedLog::begin(dir, records::CONSOLE_LOG, launch.console_log_bytes)
            .map_err(KeepError::because("the console log could not be opened"))?,
        qemu: BoundedLog::begin(dir, records::QEMU_LOG, launch.qemu_log_bytes)
            .map_err(KeepError::because("QEMU's log could not be opened"))?,
        folder: dir.to_owned(),
    };
    let mut handed = listen(&folder, &launch)?;
    // Connected before QEMU exists, the keeper is the console's first client
    // and misses nothing: QEMU accepts it before it runs the guest.
    let console = connect_console(&folder)?;
    for file in &launch.files {
        handed.push(open(file)?);
    }
    let (read, write) = output_pipe()?;
    let companions = start_companions(&launch, &write, &mut handed)?;
    let numbers: Vec<_> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let confinement = Confinement {
        user: &launch.user,
        empty_network: true,
        open_files: launch.open_files,
        descriptors: &numbers,
    };
    let child = confine::spawn(&launch.program, &launch.arguments, write, &confinement).map_err(
        |error| {
            let program = launch.program.display();
            KeepError {
                message: format!("{program} could not be started: {error}"),
                refused: false,
            }
        },
    )?;
    // QEMU alone holds them from here: what it lets go must be gone.
    drop(handed);
    let mut kept = settle(&launch, folder, dir, child, companions, logs)?;
    kept.console = Some(console);
    kept.output = Some(read);
    Ok(kept)
}

/// Takes over a machine whose keeper died.
pub(super) fn resume(dir: &Path) -> Result<Kept, KeepError> {
    let folder = lock(dir)?;
    let launch = read_launch(dir)?;
    let mut record: RunRecord = records::read(dir, records::RUN)
        .map_err(KeepError::because(format!("{} could not be read", records::RUN)))?
        .ok_or_else(|| {
            KeepError::refused(format!("there is no {} to resume from", records::RUN))
        })?;
    // First the hold, then the question: what is identified is what is held.
    let pidfd = Pidfd::open(record.qemu.pid)
        .map_err(KeepError::because("the process could not be held"))?;
    let (Identity::Match, Some(pidfd)) = (record.qemu.identify(&record.token), pidfd) else {
        return Err(KeepError::refused(format!(
            "process {} is not this machine any more",
            record.qemu.pid
        )));
    };
    cgroup::enter(&launch.group)
        .map_err(KeepError::because("the host's control groups cannot be read"))?;
    let logs = Logs {
        console: BoundedLog::resume(dir, records::CONSOLE_LOG, launch.console_log_bytes)
            .map_err(KeepError::because("the console log could not be opened"))?,
        qemu: BoundedLog::resume(dir, records::QEMU_LOG, launch.qemu_log_bytes)
            .map_err(KeepError::because("QEMU's log could not be opened"))?,
        folder: dir.to_owned(),
    };
    let console = connect_console(&folder)?;
    let companions = companions_of(&launch, &record);
    record.keeper = own_fingerprint()?;
    records::write(dir, records::RUN, &record)
        .map_err(KeepError::because(format!("{} could not be written", records::RUN)))?;
    Ok(Kept {
        folder,
        record,
        child: None,
        pidfd,
        console: Some(console),
        output: None,
        companions,
        group: launch.group,
        logs,
    })
}

/// Those companions of a dead keeper that still live.
fn companions_of(launch: &LaunchRecord, record: &RunRecord) -> Vec<Beside> {
    let recorded = launch.companions.iter().zip(&record.companions);
    recorded
        .filter_map(|(companion, fingerprint)| {
            let program = companion.program.display().to_string();
            let pidfd = Pidfd::open(fingerprint.pid).ok()??;
            // Its own path is its first argument.
            matches!(fingerprint.identify(&program), Identity::Match).then_some(Beside {
                program,
                pidfd,
                child: None,
            })
        })
        .collect()
}

fn lock(dir: &Path) -> Result<File, KeepError> {
    files::lock_dir(dir)
        .map_err(KeepError::because(format!("{} could not be opened", dir.display())))?
        .ok_or_else(|| KeepError {
            message: format!("another keeper watches {}", dir.display()),
            refused: false,
        })
}

fn read_launch(dir: &Path) -> Result<LaunchRecord, KeepError> {
    records::read(dir, records::LAUNCH)
        .map_err(KeepError::because(format!("{} could not be read", records::LAUNCH)))?
        .ok_or_else(|| {
            KeepError::refused(format!("there is no {} in {}", records::LAUNCH, dir.display()))
        })
}

fn listen(folder: &File, launch: &LaunchRecord) -> Result<Vec<OwnedFd>, KeepError> {
    launch
        .listeners
        .iter()
        .map(|listener| {
            socket::listen(folder, &listener.name)
                .and_then(|fd| descriptor::place(&fd, listener.number))
                .map_err(KeepError::because(format!(
                    "the socket {} could not be made",
                    listener.name
                )))
        })
        .collect()
}

fn connect_console(folder: &File) -> Result<File, KeepError> {
    socket::connect(folder, records::CONSOLE_SOCKET)
        .map(File::from)
        .map_err(KeepError::because("the machine's console could not be connected"))
}

fn open(file: &HandedFile) -> Result<OwnedFd, KeepError> {
    let access = if file.mode == FileMode::ReadWrite { Access::ReadWrite } else { Access::Read };
    let opened = files::open_data(&file.path, access).map_err(|error| match error {
        OpenError::Io { path, source } => {
            KeepError::refused(format!("{} could not be opened: {source}", path.display()))
        }
        other @ OpenError::NoData(_) => KeepError::refused(other.to_string()),
    })?;
    let opened = match file.mode {
        FileMode::Reopen => files::readable_by_all(opened)
            .map_err(KeepError::because(format!("{} could not be copied", file.path.display())))?,
        FileMode::Read | FileMode::ReadWrite => opened.into(),
    };
    descriptor::place(&opened, file.number)
        .map_err(KeepError::because(format!("{} could not be handed over", file.path.display())))
}

fn output_pipe() -> Result<(File, OwnedFd), KeepError> {
    let failed = || KeepError::because("a pipe could not be made");
    let (read, write) = std::io::pipe().map_err(failed())?;
    descriptor::set_nonblocking(&read).map_err(failed())?;
    Ok((OwnedFd::from(read).into(), write.into()))
}

fn start_companions(
    launch: &LaunchRecord,
    output: &OwnedFd,
    handed: &mut Vec<OwnedFd>,
) -> Result<Vec<(String, Child)>, KeepError> {
    if !launch.companions.is_empty() {
        close_loopback(&launch.group)?;
    }
    let mut children = Vec::new();
    for companion in &launch.companions {
        let failed = |error: std::io::Error| {
            let program = companion.program.display();
            KeepError {
                message: format!("{program} could not be started: {error}"),
                refused: false,
            }
        };
        let (ours, theirs) = socket::pair().map_err(failed)?;
        // The number is the same on both sides, and theirs is gone from here
        // before ours takes it.
        let theirs_placed = descriptor::place(&theirs, companion.number).map_err(failed)?;
        drop(theirs);
        let confinement = Confinement {
            user: &companion.user,
            empty_network: false,
            open_files: COMPANION_OPEN_FILES,
            descriptors: &[companion.number],
        };
        let output = output.try_clone().map_err(failed)?;
        let child = confine::spawn(&companion.program, &companion.arguments, output, &confinement)
            .map_err(failed)?;
        children.push((companion.program.display().to_string(), child));
        drop(theirs_placed);
        handed.push(descriptor::place(&ours, companion.number).map_err(failed)?);
    }
    Ok(children)
}

/// What a companion does in the host's network is what its guest tells it to.
fn close_loopback(group: &str) -> Result<(), KeepError> {
    cgroup::own(group).and_then(|group| fence::close_loopback(&group)).map_err(|error| {
        KeepError::refused(format!(
            "the guest could not be kept from the host's loopback: {error}; passt needs a host \
             with writable control groups of version 2, and the network \"isolated\" does not"
        ))
    })
}

/// Writes down what runs; a machine that could not be found again must not run.
fn settle(
    launch: &LaunchRecord,
    folder: File,
    dir: &Path,
    mut child: Child,
    companions: Vec<(String, Child)>,
    logs: Logs,
) -> Result<Kept, KeepError> {
    let recorded = (|| {
        let qemu = Fingerprint::of(child.id())?;
        let pidfd =
            Pidfd::open(child.id())?.ok_or_else(|| std::io::Error::other("the process is gone"))?;
        let keeper = Fingerprint::of(std::process::id())?;
        let (companions, fingerprints): (Vec<_>, Vec<_>) = companions
            .into_iter()
            .map(beside)
            .collect::<std::io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let token = launch.token.clone();
        let record = RunRecord { token, qemu, keeper, companions: fingerprints };
        records::write(dir, records::RUN, &record)?;
        Ok::<_, std::io::Error>((record, pidfd, companions))
    })();
    match recorded {
        Ok((record, pidfd, companions)) => Ok(Kept {
            folder,
            record,
            child: Some(child),
            pidfd,
            console: None,
            output: None,
            companions,
            group: launch.group.clone(),
            logs,
        }),
        Err(error) => {
            // Our own child that nobody has reaped: its number is its own.
            let _ = child.kill();
            let _ = child.wait();
            Err(KeepError::because(format!("{} could not be written", records::RUN))(error))
        }
    }
}

fn beside((program, child): (String, Child)) -> std::io::Result<(Beside, Fingerprint)> {
    let fingerprint = Fingerprint::of(child.id())?;
    let pidfd =
        Pidfd::open(child.id())?.ok_or_else(|| std::io::Error::other("a companion is gone"))?;
    Ok((Beside { program, pidfd, child: Some(child) }, fingerprint))
}

fn own_fingerprint() -> Result<Fingerprint, KeepError> {
    Fingerprint::of(std::process::id())
        .map_err(KeepError::because("the keeper could not identify itself"))
}
