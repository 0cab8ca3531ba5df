//! Processes die. The truth about every VM survives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vmm_api::client::Client;
use vmm_api::vm::{State, Vm};

use crate::scene::{Scene, connected, facts_go_on};
use crate::wait::until;

/// How long the daemon may take to notice what happened to a process.
const NOTICE_LIMIT: Duration = Duration::from_secs(30);

/// QEMU is killed: the VM has failed, and it is said how.
pub async fn a_killed_qemu_is_a_failed_vm(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let vm = scene.boot(&client, &scene.spec("web")).await?;
    signal(vm.pid, Signal::KILL)?;
    let vm = state_of(&client, "web", State::Failed).await?;
    let detail = vm.state_detail.unwrap_or_default();
    ensure!(detail.contains("signal 9") || detail.contains("SIGKILL"), "{detail:?}");
    ensure!(vm.pid.is_none(), "it has a process: {:?}", vm.pid);
    scene.start(&client, "web").await?;
    connected(&client, "web").await.map(drop)
}

/// QEMU stops answering: it is said, nothing is killed, and it is said when it
/// answers again.
pub async fn a_silent_monitor_is_told(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let vm = scene.boot(&client, &scene.spec("web")).await?;
    signal(vm.pid, Signal::STOP)?;
    let silent = until("word of the silent monitor", NOTICE_LIMIT, || async {
        let vm = client.vm("web").await?;
        Ok(vm.state_detail.is_some().then_some(vm))
    })
    .await?;
    ensure!(silent.state == State::Running && silent.pid == vm.pid, "{silent:?}");
    signal(vm.pid, Signal::CONT)?;
    until("the monitor's return", NOTICE_LIMIT, || async {
        Ok(client.vm("web").await?.state_detail.is_none().then_some(()))
    })
    .await
}

/// The daemon is killed while VMs run: the same processes, and the facts go on.
pub async fn a_killed_daemon_finds_its_vms_again(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let one = scene.boot(&client, &scene.spec("one")).await?;
    let two = scene.boot(&client, &scene.spec("two")).await?;
    client.create(&scene.spec("idle")).await?;
    let killed = scene.daemon_pid()?;
    scene.kill_daemon()?;
    let client = scene.start_daemon().await?;
    ensure!(scene.daemon_pid()? != killed, "it is the same daemon");
    for before in [one, two] {
        let after = connected(&client, &before.spec.name).await?;
        ensure!(after.state == State::Running && after.pid == before.pid, "{after:?}");
        facts_go_on(&client, &before.spec.name).await?;
    }
    ensure!(client.vm("idle").await?.state == State::Created, "idle changed");
    scene.stop_daemon().await
}

/// The keeper is killed: the VM runs on, and its end is still seen.
pub async fn a_killed_keeper_leaves_the_vm_running(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let before = scene.boot(&client, &scene.spec("web")).await?;
    signal(Some(keeper_of(&before)?), Signal::KILL)?;
    facts_go_on(&client, "web").await?;
    let after = client.vm("web").await?;
    ensure!(after.state == State::Running && after.pid == before.pid, "{after:?}");
    // A new keeper can be no parent, and sees the end all the same.
    signal(after.pid, Signal::KILL)?;
    state_of(&client, "web", State::Failed).await.map(drop)
}

/// Daemon and keeper are killed together.
pub async fn daemon_and_keeper_killed_together(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let before = scene.boot(&client, &scene.spec("web")).await?;
    let keeper = keeper_of(&before)?;
    scene.kill_daemon()?;
    signal(Some(keeper), Signal::KILL)?;
    let client = scene.start_daemon().await?;
    let after = connected(&client, "web").await?;
    ensure!(after.state == State::Running && after.pid == before.pid, "{after:?}");
    facts_go_on(&client, "web").await?;
    let listed = scene.vmmctl(&["list", "-o", "json"]).await?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(listed.contains("\"running\""), "{listed}");
    Ok(())
}

/// Everything in the daemon's process group is killed at once, as a terminal or
/// a supervisor does: keeper and QEMU are in a session of their own. On a host
/// without systemd and without control groups that alone keeps a VM running.
pub async fn a_vm_outlives_the_daemons_process_group_and_session(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let before = scene.boot(&client, &scene.spec("web")).await?;
    let daemon = scene.daemon_pid()?;
    let keeper = keeper_of(&before)?;
    for pid in [keeper, before.pid.context("it has no process")?] {
        let (own, daemons) = (session_of(pid)?, session_of(daemon)?);
        ensure!(own.0 != daemons.0 && own.1 != daemons.1, "{own:?} is {daemons:?} of the daemon");
    }
    let group = i32::try_from(daemon).ok().and_then(Pid::from_raw).context("no such group")?;
    rustix::process::kill_process_group(group, Signal::KILL)?;
    scene.kill_daemon()?;
    let client = scene.start_daemon().await?;
    let after = connected(&client, "web").await?;
    ensure!(after.state == State::Running && after.pid == before.pid, "{after:?}");
    ensure!(keeper_of(&after)? == keeper, "it has another keeper");
    facts_go_on(&client, "web").await
}

/// What happened while the daemon was away is told when it is back.
pub async fn ends_that_nobody_saw_are_told(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let killed = scene.boot(&client, &scene.spec("killed")).await?;
    let unseen = scene.boot(&client, &scene.spec("unseen")).await?;
    scene.kill_daemon()?;
    signal(killed.pid, Signal::KILL)?;
    signal(Some(keeper_of(&unseen)?), Signal::KILL)?;
    signal(unseen.pid, Signal::KILL)?;
    gone(killed.pid).await?;
    gone(unseen.pid).await?;
    let client = scene.start_daemon().await?;
    for name in ["killed", "unseen"] {
        let vm = state_of(&client, name, State::Failed).await?;
        ensure!(vm.pid.is_none() && vm.state_detail.is_some(), "{vm:?}");
    }
    Ok(())
}

async fn state_of(client: &Client, vm: &str, state: State) -> Result<Vm> {
    let what = format!("{vm} to be {state:?}");
    until(&what, NOTICE_LIMIT, || async {
        let vm = client.vm(vm).await?;
        Ok((vm.state == state).then_some(vm))
    })
    .await
}

/// The keeper is QEMU's parent.
fn keeper_of(vm: &Vm) -> Result<u32> {
    let pid = vm.pid.context("it has no process")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent: u32 = parent.context("no parent in /proc")?.trim().parse()?;
    let arguments = std::fs::read(format!("/proc/{parent}/cmdline"))?;
    let keeps = arguments.split(|&byte| byte == 0).any(|argument| argument == b"keep");
    ensure!(keeps, "QEMU's parent {parent} is no keeper");
    Ok(parent)
}

/// A process's group and session.
fn session_of(pid: u32) -> Result<(u32, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("the kernel's line has another form")?.1;
    let mut fields = after_name.split_whitespace().skip(2);
    let mut next = || anyhow::Ok(fields.next().context("the line is too short")?.parse()?);
    Ok((next()?, next()?))
}

fn signal(pid: Option<u32>, signal: Signal) -> Result<()> {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    kill_process(pid.context("it has no process")?, signal).context("it could not be signalled")
}

/// Waits until a process is gone. One that PID 1 does not reap is gone too.
async fn gone(pid: Option<u32>) -> Result<()> {
    let pid = pid.context("it has no process")?;
    let what = format!("the end of process {pid}");
    until(&what, NOTICE_LIMIT, || async {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        let alive = stat.is_ok_and(|stat| !stat.contains(") Z "));
        Ok((!alive).then_some(()))
    })
    .await
}
