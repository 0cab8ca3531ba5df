//! Starting VMs when the host has booted: once per boot, however often the
//! daemon is restarted in it.
//!
//! What was done in this boot stands in a file beside the machines' folders, in
//! memory: the boot's id, then a line for each VM that was started, then a last
//! word. So a daemon that was killed half-way goes on where it was, and a VM that
//! its operator stopped since stays stopped.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmm_api::operation::OperationState;
use vmm_api::vm::{State, Vm};

use super::registry::Registry;
use super::{Request, RequestError, chain};
use crate::sys::{files, process};

/// How many VMs are started at once: QEMU's start takes a processor for a
/// moment, and guests that boot together share the disks.
const AT_ONCE: usize = 4;

/// How long a VM may take until QEMU runs it. The keeper gives up before.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest record that is read: an id for each of 100,000 VMs.
const LONGEST_RECORD: u64 = 4 << 20;

/// The last line of a record: every VM had its turn.
const ALL: &str = "all";

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many VMs were started.
    pub started: usize,
    /// The names of those that were not. The log says why.
    pub failed: Vec<String>,
}

/// Starts the VMs with `autostart` that do not run, unless that was done in this
/// boot of the host, for which `record` stands. `None` when there was nothing to
/// do, and when `shutdown` came before the end.
pub async fn run(
    registry: Registry,
    record: PathBuf,
    shutdown: CancellationToken,
) -> Option<Outcome> {
    let record = match Record::open(&record) {
        Ok(record) => record?,
        Err(error) => {
            tracing::error!(
                %error,
                record = %record.display(),
                "No VM is started by itself: it cannot be told whether that was done already."
            );
            return None;
        }
    };
    let due = |vm: &Vm| {
        let down = matches!(vm.state, State::Created | State::Stopped | State::Failed);
        vm.spec.autostart && down && !record.done.contains(&vm.id)
    };
    let vms: Vec<Vm> = registry.list().into_iter().filter(due).collect();
    let all = vms.len();
    if all > 0 {
        tracing::info!(vms = all, "The host has booted: starting VMs with autostart.");
    }
    let turns = stream::iter(vms)
        .take_until(shutdown.cancelled())
        .map(|vm| start(&registry, &record, vm))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    if turns.len() < all {
        return None;
    }
    record.note(ALL);
    let failed: Vec<String> = turns.into_iter().filter_map(Result::err).collect();
    (all > 0).then(|| Outcome { started: all - failed.len(), failed })
}

/// Starts one VM; gives its name when that failed.
async fn start(registry: &Registry, record: &Record, vm: Vm) -> Result<(), String> {
    let begun = registry.request(vm.id, Request::Start).await;
    record.note(&vm.id.to_string());
    let why = match begun {
        // Its operator was quicker.
        Err(RequestError::Refused(_)) if runs(registry, vm.id) => return Ok(()),
        Err(error) => chain(&error),
        Ok(operation) => match registry.wait_operation(operation.id, START_LIMIT).await {
            Ok(Some(ended)) if ended.state == OperationState::Succeeded => return Ok(()),
            Ok(ended) => ended
                .and_then(|operation| operation.error)
                .unwrap_or_else(|| format!("it did not run within {} s", START_LIMIT.as_secs())),
            Err(error) => chain(&error),
        },
    };
    tracing::error!(vm = %vm.id, name = vm.spec.name, why, "A VM with autostart was not started.");
    Err(vm.spec.name)
}

fn runs(registry: &Registry, id: Uuid) -> bool {
    let state = registry.vm(id).map(|vm| vm.state);
    matches!(state, Some(State::Starting | State::Running | State::Paused))
}

/// What was done in this boot of the host.
struct Record {
    file: File,
    done: HashSet<Uuid>,
}

impl Record {
    /// The record of this boot; `None` when all is done.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let boot = process::boot_id()?;
        let text = match files::read_bounded(path, LONGEST_RECORD) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let mut done = HashSet::new();
        if lines.next() == Some(boot.as_str()) {
            if lines.clone().any(|line| line == ALL) {
                return Ok(None);
            }
            done.extend(lines.filter_map(|line| line.parse::<Uuid>().ok()));
        } else {
            files::write_atomic(path, format!("{boot}\n").as_bytes())?;
        }
        Ok(Some(Self { file: files::append_private(path)?, done }))
    }

    /// Adds a line. When that fails, a VM may be started once more.
    fn note(&self, line: &str) {
        if let Err(error) = (&self.file).write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(%error, "What was started by itself could not be noted.");
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_api::vm::VmPatch;

    use super::super::driver_tests::Daemon;
    use super::*;

    const ON: VmPatch = VmPatch { autostart: Some(true) };

    async fn vm(daemon: &Daemon, name: &str) -> Uuid {
        let id = daemon.registry.create(daemon.spec(name), None).await.unwrap().id;
        daemon.registry.change(id, ON).await.unwrap();
        id
    }

    fn record(daemon: &Daemon) -> PathBuf {
        daemon.folder.path().join("autostarted")
    }

    async fn autostart(daemon: &Daemon) -> Option<Outcome> {
        run(daemon.registry.clone(), record(daemon), CancellationToken::new()).await
    }

    fn outcome(started: usize, failed: &[&str]) -> Option<Outcome> {
        let failed = failed.iter().map(|&name| name.to_owned()).collect();
        Some(Outcome { started, failed })
    }

    #[tokio::test]
    async fn those_that_want_it_are_started_once_per_boot() {
        let daemon = Daemon::new().await;
        let (a, b) = (vm(&daemon, "a").await, vm(&daemon, "b").await);
        let c = daemon.registry.create(daemon.spec("c"), None).await.unwrap().id;
        assert_eq!(autostart(&daemon).await, outcome(2, &[]));
        assert_eq!(daemon.state(a).0, State::Running);
        assert_eq!(daemon.state(c).0, State::Created);
        daemon.does(a, Request::Kill).await.unwrap();
        assert_eq!(autostart(&daemon).await, None, "the same boot");
        assert_eq!(daemon.state(a).0, State::Stopped);
        std::fs::write(record(&daemon), "another boot\nall\n").unwrap();
        assert_eq!(autostart(&daemon).await, outcome(1, &[]), "b runs already");
        assert_eq!((daemon.state(a).0, daemon.state(b).0), (State::Running, State::Running));
    }

    #[tokio::test]
    async fn a_daemon_that_was_killed_half_way_goes_on_where_it_was() {
        let daemon = Daemon::new().await;
        let (a, b) = (vm(&daemon, "a").await, vm(&daemon, "b").await);
        let boot = process::boot_id().unwrap();
        std::fs::write(record(&daemon), format!("{boot}\n{a}\n")).unwrap();
        assert_eq!(autostart(&daemon).await, outcome(1, &[]));
        assert_eq!(daemon.state(a).0, State::Created, "it had its turn");
        assert_eq!(daemon.state(b).0, State::Running);
    }

    #[tokio::test]
    async fn one_that_cannot_start_is_named_and_stops_no_other() {
        let daemon = Daemon::new().await;
        let spec = vmm_api::vm::VmSpec { kernel: None, ..daemon.spec("a") };
        let a = daemon.registry.create(spec, None).await.unwrap().id;
        daemon.registry.change(a, ON).await.unwrap();
        let b = vm(&daemon, "b").await;
        assert_eq!(autostart(&daemon).await, outcome(1, &["a"]));
        assert_eq!(daemon.state(b).0, State::Running);
        assert_eq!(autostart(&daemon).await, None, "and is not tried again");
    }

    #[tokio::test]
    async fn an_end_of_the_daemon_leaves_the_rest_for_the_next_one() {
        let daemon = Daemon::new().await;
        let a = vm(&daemon, "a").await;
        let closing = CancellationToken::new();
        closing.cancel();
        assert_eq!(run(daemon.registry.clone(), record(&daemon), closing).await, None);
        assert_eq!(daemon.state(a).0, State::Created);
        assert_eq!(autostart(&daemon).await, outcome(1, &[]));
    }
}
