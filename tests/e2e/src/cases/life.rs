//! A VM's life, as its operator lives it.

use anyhow::{Context, Result, ensure};
use lab::qemu::BOOT_LIMIT;
use vmm_api::client::Client;
use vmm_api::vm::{RestartRequest, State, StopRequest, Vm};

use crate::scene::{Scene, connected, reported, succeeded};
use crate::wait::until;

/// From a specification to a report from inside, and down again.
pub async fn boots_reports_and_stops(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;

    let vm = scene.boot(&client, &scene.spec("web")).await?;
    ensure!(vm.state == State::Running, "{:?}", vm.state);
    let host_name = reported(&client, "web").await?.facts.os.map(|os| os.hostname);
    ensure!(host_name.as_deref() == Some("web"), "{host_name:?}");
    let shown = scene.vmmctl(&["guest", "web", "-o", "json"]).await?;
    let told = String::from_utf8(shown.stdout)?;
    ensure!(shown.status.success() && told.contains("\"web\""), "no host name in {told}");

    succeeded(&client, client.stop("web", &StopRequest::default()).await?).await?;
    let vm = client.vm("web").await?;
    ensure!(vm.state == State::Stopped && vm.pid.is_none(), "{:?}, {:?}", vm.state, vm.pid);

    // The console is there from the kernel's first words, and after the end.
    let console = client.console_log("web", None).await?;
    let console = String::from_utf8_lossy(&console);
    ensure!(console.contains(lab::guest::USERSPACE_IS_UP), "{console}");

    succeeded(&client, client.delete("web").await?).await?;
    let error = client.vm("web").await.err().context("it is still there")?;
    ensure!(error.status() == Some(404), "{error}");
    scene.stop_daemon().await
}

/// Pause and resume, and a stop of a paused VM.
pub async fn pauses_resumes_and_stops_while_paused(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    scene.boot(&client, &scene.spec("web")).await?;
    succeeded(&client, client.pause("web").await?).await?;
    ensure!(client.vm("web").await?.state == State::Paused, "it is not paused");
    succeeded(&client, client.resume("web").await?).await?;
    connected(&client, "web").await?;
    succeeded(&client, client.pause("web").await?).await?;
    succeeded(&client, client.stop("web", &StopRequest::default()).await?).await?;
    ensure!(client.vm("web").await?.state == State::Stopped, "it is not stopped");
    Ok(())
}

/// A cold restart is a new process; what runs can be neither started nor
/// deleted.
pub async fn restarts_cold_and_refuses_what_cannot_be(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let before = scene.boot(&client, &scene.spec("web")).await?;
    for refused in
        [client.start("web").await, client.delete("web").await, client.resume("web").await]
    {
        let error = refused.err().context("it was allowed")?;
        ensure!(error.status() == Some(409), "{error}");
    }
    let request = RestartRequest { cold: true, ..RestartRequest::default() };
    succeeded(&client, client.restart("web", &request).await?).await?;
    let after = connected(&client, "web").await?;
    ensure!(after.pid.is_some() && after.pid != before.pid, "{:?} {:?}", before.pid, after.pid);
    succeeded(&client, client.kill("web").await?).await?;
    ensure!(client.vm("web").await?.state == State::Stopped, "it is not stopped");
    Ok(())
}

/// Without an agent the power button does it, and without an answer the
/// deadline.
pub async fn stops_without_an_agent(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    client.create(&scene.spec_with("web", "lab.run=agent-absent")).await?;
    for stop in [StopRequest::default(), StopRequest { force_after_s: Some(1) }] {
        scene.start(&client, "web").await?;
        if stop.force_after_s.is_none() {
            up(&client).await?;
        }
        succeeded(&client, client.stop("web", &stop).await?).await?;
        let Vm { state, pid, .. } = client.vm("web").await?;
        ensure!(state == State::Stopped && pid.is_none(), "{state:?}, {pid:?}");
    }
    Ok(())
}

/// Waits until the guest looks at its power button: pressed earlier, it is
/// pressed in vain.
async fn up(client: &Client) -> Result<()> {
    until("the guest at its power button", BOOT_LIMIT, || async {
        let console = client.console_log("web", None).await?;
        let console = String::from_utf8_lossy(&console).into_owned();
        Ok(console.contains(lab::guest::LOOKS_AT_POWER_BUTTON).then_some(()))
    })
    .await
}
