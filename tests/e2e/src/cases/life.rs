//! A VM's life, as its operator lives it.

use anyhow::{Result, ensure};
use vmm_api::vm::{State, StopRequest};

use crate::scene::{Scene, reported, succeeded};

/// From a specification to a report from inside, and down again.
pub async fn boots_reports_and_stops(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;

    let vm = scene.boot(&client, &scene.spec("web")).await?;
    ensure!(vm.state == State::Running, "{:?}", vm.state);
    let guest = reported(&client, "web").await?;
    let host_name = guest.facts.os.map(|os| os.hostname);
    ensure!(host_name.as_deref() == Some("web"), "{host_name:?}");
    let shown = scene.vmmctl(&["guest", "web", "-o", "json"]).await?;
    let told = String::from_utf8(shown.stdout)?;
    ensure!(shown.status.success() && told.contains("\"web\""), "no host name in {told}");

    succeeded(&client, client.stop("web", &StopRequest::default()).await?).await?;
    let vm = client.vm("web").await?;
    ensure!(vm.state == State::Stopped && vm.pid.is_none(), "{:?}, {:?}", vm.state, vm.pid);

    succeeded(&client, client.delete("web").await?).await?;
    scene.stop_daemon().await
}
