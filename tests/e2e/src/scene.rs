//! What one test has to itself: a fresh folder with a daemon's state in it, a
//! client, and the certainty that nothing of it is left when it ends.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::daemon::{Daemon, Settings};
use lab::qemu::BOOT_LIMIT;
use rustix::process::{Pid, Signal, kill_process};
use vmm_api::client::Client;
use vmm_api::guest::{AgentState, Guest};
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::{Vm, VmSpec};

use crate::stage::Stage;
use crate::wait::until;

/// What a guest of the lab needs, in MiB: kernel and initial RAM file system
/// unpacked, and as much again.
const GUEST_MEMORY_MIB: u64 = 256;
/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// How long the daemon may take for what needs no guest.
pub const BLINK: Duration = Duration::from_secs(10);

/// One test's own world. A handle: clones are the same scene.
#[derive(Clone)]
pub struct Scene {
    stage: Arc<Stage>,
    folder: Arc<tempfile::TempDir>,
    daemon: Arc<Mutex<Option<Daemon>>>,
}

impl Scene {
    /// An empty scene.
    pub fn new(stage: &Arc<Stage>) -> Result<Self> {
        // Short: the path of a unix socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("ib-").tempdir_in("/tmp")?;
        // QEMU runs as somebody else and must reach its VM's folder.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let daemon = Arc::new(Mutex::new(None));
        Ok(Self { stage: Arc::clone(stage), folder: Arc::new(folder), daemon })
    }

    /// What all tests stand on.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// This test's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How this test's daemon is run. More of its environment can be set.
    pub fn settings(&self) -> Settings {
        Settings {
            programs: self.stage.programs.clone(),
            folder: self.folder().join("d"),
            environment: Vec::new(),
        }
    }

    /// Starts the daemon, on the state that an earlier one left, and gives a
    /// client of it.
    pub async fn start_daemon(&self) -> Result<Client> {
        self.start_daemon_with(self.settings()).await
    }

    /// Starts the daemon with settings of the test's own.
    pub async fn start_daemon_with(&self, settings: Settings) -> Result<Client> {
        let client = Client::new(settings.socket());
        let daemon = tokio::task::spawn_blocking(move || Daemon::start(settings)).await??;
        *self.daemon() = Some(daemon);
        Ok(client)
    }

    /// Starts the daemon and kills it after so long, ready or not.
    pub async fn start_and_kill_daemon(&self, after: Duration) -> Result<()> {
        let daemon = Daemon::spawn(self.settings())?;
        tokio::time::sleep(after).await;
        daemon.kill().map(drop)
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> Result<u32> {
        Ok(self.daemon().as_ref().context("the daemon does not run")?.pid())
    }

    /// Kills the daemon as a crash would.
    pub fn kill_daemon(&self) -> Result<()> {
        self.daemon().take().context("the daemon does not run")?.kill().map(drop)
    }

    /// Asks the daemon to end, and waits until it has.
    pub async fn stop_daemon(&self) -> Result<()> {
        let daemon = self.daemon().take().context("the daemon does not run")?;
        tokio::task::spawn_blocking(move || daemon.stop()).await?.map(drop)
    }

    /// Runs `vmmctl` against this scene's daemon to its end.
    pub async fn vmmctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.settings().vmmctl();
        command.args(args);
        let mut command = tokio::process::Command::from(command);
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        command.output().await.context("cannot run vmmctl")
    }

    /// A guest of the lab with the agent in it. Its host name is the VM's.
    pub fn spec(&self, name: &str) -> VmSpec {
        self.spec_with(name, "")
    }

    /// The same with more on the kernel's command line; `docs/lab.md` lists
    /// what a guest understands.
    pub fn spec_with(&self, name: &str, options: &str) -> VmSpec {
        let path = |path: &Path| Some(path.display().to_string());
        let cmdline = format!("{} lab.hostname={name} {options}", lab::guest::CMDLINE);
        VmSpec {
            name: name.to_owned(),
            vcpus: 1,
            memory_mib: GUEST_MEMORY_MIB,
            kernel: path(&self.stage.kernel.image),
            initrd: path(&self.stage.initrd()),
            cmdline: Some(cmdline.trim_end().to_owned()),
            disks: Vec::new(),
            nics: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            autostart: false,
        }
    }

    /// Creates a VM, starts it and waits until its agent has said hello.
    pub async fn boot(&self, client: &Client, spec: &VmSpec) -> Result<Vm> {
        client.create(spec).await.with_context(|| format!("cannot create {}", spec.name))?;
        self.start(client, &spec.name).await?;
        connected(client, &spec.name).await
    }

    /// Starts a VM and waits until QEMU runs it.
    pub async fn start(&self, client: &Client, vm: &str) -> Result<()> {
        let operation = client.start(vm).await.with_context(|| format!("cannot start {vm}"))?;
        succeeded(client, operation).await?;
        self.stage.count_guest();
        Ok(())
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        self.settings().log_tail()
    }

    /// Ends everything that the test started. Fails when it left processes
    /// behind that its VMs do not account for.
    pub fn clear(&self) -> Result<()> {
        // First the daemon, or it would restart or report what dies next.
        drop(self.daemon().take());
        let ended = self.end_processes();
        if ended.is_err() {
            // Whoever looks at a failure needs what lies in there.
            println!("see {}", self.folder().display());
        }
        ended
    }

    /// Kills whatever names this scene's folder, such as keepers, and whatever
    /// carries the token of one of its machines: QEMU knows no folder, for all
    /// that it opens is handed to it.
    fn end_processes(&self) -> Result<()> {
        let mut marks = tokens(&self.settings().vms());
        marks.push(self.folder().as_os_str().as_encoded_bytes().to_vec());
        lab::wait::until("the end of a test's processes", GONE_LIMIT, || {
            let left = processes_carrying(&marks)?;
            for pid in &left {
                // It may end between the look and the blow.
                let _ = kill_process(*pid, Signal::KILL);
            }
            Ok(left.is_empty().then_some(()))
        })
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until an operation has ended, and fails when it failed.
pub async fn succeeded(client: &Client, operation: Operation) -> Result<Operation> {
    let kind = operation.kind;
    let ended = client.wait(operation, BOOT_LIMIT).await?;
    ensure!(
        ended.state == OperationState::Succeeded,
        "{kind:?} failed: {}",
        ended.error.as_deref().unwrap_or("it does not say why")
    );
    Ok(ended)
}

/// Waits until a VM's agent has said hello in this run of the VM.
pub async fn connected(client: &Client, vm: &str) -> Result<Vm> {
    let what = format!("the hello of {vm}'s agent");
    let waited = until(&what, BOOT_LIMIT, || async {
        let vm = client.vm(vm).await?;
        Ok((vm.guest.agent == AgentState::Connected).then_some(vm))
    });
    match waited.await {
        Ok(vm) => Ok(vm),
        Err(error) => {
            let log = client.console_log(vm, Some(2000)).await.unwrap_or_default();
            bail!("{error:#}; its console ends with:\n{}", String::from_utf8_lossy(&log))
        }
    }
}

/// Waits until a VM's agent has told its facts.
pub async fn reported(client: &Client, vm: &str) -> Result<Guest> {
    until(&format!("the facts of {vm}"), BOOT_LIMIT, || async {
        let guest = client.guest(vm).await?;
        Ok(guest.facts_at.is_some().then_some(guest))
    })
    .await
}

/// Waits until facts come that were not there before. Not newer ones: tests set
/// the daemon's clock back.
pub async fn facts_go_on(client: &Client, vm: &str) -> Result<()> {
    let before = client.guest(vm).await?.facts_at;
    let what = format!("new facts of {vm}");
    until(&what, BOOT_LIMIT, || async {
        let guest = client.guest(vm).await?;
        let heard = guest.summary.agent == AgentState::Connected;
        Ok((heard && guest.facts_at != before).then_some(()))
    })
    .await
}

/// The tokens of all machines that ever ran below a folder.
fn tokens(vms: &Path) -> Vec<Vec<u8>> {
    let runs = std::fs::read_dir(vms).into_iter().flatten().flatten();
    let token = |run: std::fs::DirEntry| {
        let record = std::fs::read(run.path().join("launch.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        Some(record["token"].as_str()?.as_bytes().to_vec())
    };
    runs.filter_map(token).collect()
}

/// Processes, zombies left out, that carry one of the marks in their arguments
/// or in their environment.
fn processes_carrying(marks: &[Vec<u8>]) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let process: PathBuf = entry?.path();
        let name = process.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let pid = name.parse().ok().and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) else { continue };
        // What ends meanwhile, and a zombie, has neither.
        let names_it = ["cmdline", "environ"].iter().any(|file| {
            let bytes = std::fs::read(process.join(file)).unwrap_or_default();
            marks.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == mark))
        });
        if names_it {
            found.push(pid);
        }
    }
    Ok(found)
}
