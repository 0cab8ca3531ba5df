//! A guest may send what it likes. It costs the host what the channel's limits
//! say, and the guest's agent is heard all the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmm_api::client::Client;
use vmm_api::guest::Guest;

use crate::scene::{Scene, connected, reported};
use crate::soak::hostile_guests;
use crate::wait::until;

/// How long an emulated guest may take to send its megabytes.
const SENDING_LIMIT: Duration = Duration::from_secs(120);

/// A quarter of a megabyte of random bytes.
pub async fn garbage_costs_only_itself(scene: Scene) -> Result<()> {
    let guest = heard_after(&scene, "hostile-garbage").await?;
    ensure!(guest.dropped.garbage_bytes > 100_000, "{:?}", guest.dropped);
    Ok(())
}

/// Three megabytes without an end.
pub async fn a_line_without_end_is_dropped(scene: Scene) -> Result<()> {
    let guest = heard_after(&scene, "hostile-line").await?;
    ensure!(guest.dropped.too_long >= 1, "{:?}", guest.dropped);
    Ok(())
}

/// JSON that nests 10,000 deep.
pub async fn deep_nesting_is_dropped(scene: Scene) -> Result<()> {
    let guest = heard_after(&scene, "hostile-deep").await?;
    ensure!(guest.dropped.too_deep >= 1, "{:?}", guest.dropped);
    Ok(())
}

/// A host name made of terminal escapes reaches no terminal.
pub async fn terminal_escapes_are_shown_escaped(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    // The lab's guest hands it to printf.
    let mut spec = scene.spec("web");
    spec.cmdline = spec
        .cmdline
        .map(|line| line.replace("lab.hostname=web", r"lab.hostname=\033[2J\033]0;owned\007x"));
    scene.boot(&client, &spec).await?;
    until("the host name", SENDING_LIMIT, || async {
        let os = client.guest("web").await?.facts.os;
        Ok(os.filter(|os| os.hostname.contains('\u{1b}')).map(drop))
    })
    .await?;

    for args in [&["guest", "web"][..], &["list"], &["info", "web"], &["watch", "--count", "1"]] {
        let output = scene.vmmctl(args).await?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(!output.stdout.contains(&0x1b) && !output.stdout.contains(&7), "{args:?}");
    }
    Ok(())
}

/// 100 MB of garbage.
pub async fn a_hundred_megabytes_of_garbage(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::GARBAGE).await
}

/// 10,000 messages a second, and more.
pub async fn ten_thousand_messages_a_second(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::FLOOD).await
}

/// A hello each millisecond.
pub async fn a_hello_each_millisecond(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::HELLO).await
}

/// Reports whose merged facts grow without end.
pub async fn facts_that_grow_without_end(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::FACTS).await
}

/// Wide JSON, which would take a hundred times its length in memory.
pub async fn wide_json_is_dropped(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::WIDE).await
}

/// One that opens and closes its port all the time.
pub async fn a_port_that_opens_and_closes_all_the_time(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::PORT).await
}

/// One that never reads.
pub async fn a_guest_that_never_reads(scene: Scene) -> Result<()> {
    hostile_guests::short(scene, hostile_guests::DEAF).await
}

/// Boots a guest that misbehaves before its agent starts, and waits until the
/// agent is heard and its facts have come.
async fn heard_after(scene: &Scene, what: &str) -> Result<Guest> {
    let client: Client = scene.start_daemon().await?;
    let spec = scene.spec_with("rogue", &format!("lab.run={what}"));
    client.create(&spec).await?;
    scene.start(&client, "rogue").await?;
    connected(&client, "rogue").await?;
    reported(&client, "rogue").await
}
