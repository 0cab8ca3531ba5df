//! A guest reaches nothing of the host's.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::qemu::BOOT_LIMIT;
use vmm_api::client::Client;
use vmm_api::vm::{Network, NicSpec};

use crate::scene::Scene;
use crate::wait::until;

/// Tries every address that might be the host, and says what came of it.
const REACH: &str = r#"#!/bin/sh
. /etc/lab/options
read -r line < /proc/cmdline
for word in $line; do
    case $word in e2e.port=*) port=${word#*=} ;; esac
done
until ip -4 addr show dev eth0 | grep -q inet; do sleep 0.2; done
gateway=$(ip route | sed -n 's/^default via \([^ ]*\).*/\1/p')
for address in $gateway 10.0.2.2 10.0.2.3 127.0.0.1; do
    if nc -w 2 "$address" "$port" < /dev/null > /tmp/answer 2> /dev/null && grep -q host /tmp/answer; then
        echo "e2e: reached $address"
    fi
done
echo "e2e: tried with an address"
exec sleep 2147483647
"#;

const INITTAB: &str = "::sysinit:/etc/lab/start
::respawn:/etc/lab/agent
::respawn:/etc/lab/network
::once:/etc/e2e/reach
";

/// How long the guest's attempts may take.
const TRY_LIMIT: Duration = Duration::from_secs(120);

/// By the isolated network.
pub async fn an_isolated_guest_reaches_no_loopback_port(scene: Scene) -> Result<()> {
    reaches_nothing(&scene, Network::Isolated).await
}

/// By passt.
pub async fn a_guest_behind_passt_reaches_no_loopback_port(scene: Scene) -> Result<()> {
    reaches_nothing(&scene, Network::Passt).await
}

/// QEMU runs as nobody who has a role, in a network of its own.
pub async fn qemu_has_no_rights_and_no_network(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let one = scene.boot(&client, &scene.spec("one")).await?;
    let two = scene.boot(&client, &scene.spec("two")).await?;
    let mut users = Vec::new();
    for vm in [&one, &two] {
        let process = Path::new("/proc").join(vm.pid.context("no process")?.to_string());
        let status = std::fs::read_to_string(process.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let uids = field("Uid:").context("Uid")?;
        ensure!(uids.iter().all(|uid| uid == &uids[0] && uid != "0"), "{uids:?}");
        users.push(uids[0].clone());
        for capabilities in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let set = field(capabilities).context("capabilities")?;
            ensure!(
                capabilities == "CapBnd:" || set[0].trim_matches('0').is_empty(),
                "{capabilities} {set:?}"
            );
        }
        ensure!(field("NoNewPrivs:") == Some(vec!["1".into()]), "it may gain privileges");
        ensure!(field("Seccomp:") == Some(vec!["2".into()]), "it has no seccomp filter");
        let network = std::fs::read_link(process.join("ns/net"))?;
        ensure!(network != std::fs::read_link("/proc/self/ns/net")?, "it shares our network");
        let interfaces = std::fs::read_to_string(process.join("net/dev"))?;
        ensure!(interfaces.lines().count() == 3, "more than a loopback: {interfaces}");
    }
    ensure!(users[0] != users[1], "two VMs share the user {}", users[0]);
    Ok(())
}

async fn reaches_nothing(scene: &Scene, network: Network) -> Result<()> {
    let files = [("etc/inittab", 0o644, INITTAB), ("etc/e2e/reach", 0o755, REACH)];
    let initrd = scene.stage().guest_with("reach", &files)?;
    // What a guest must not reach: it greets whoever connects.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;

    let client = scene.start_daemon().await?;
    let mut spec = scene.spec_with("web", &format!("e2e.port={port}"));
    spec.initrd = Some(initrd.display().to_string());
    spec.nics = vec![NicSpec { network, mac: None }];
    scene.boot(&client, &spec).await?;
    let console = until("the guest's attempts", TRY_LIMIT.max(BOOT_LIMIT), || async {
        let console = console(&client).await?;
        Ok(console.contains("e2e: tried").then_some(console))
    })
    .await?;
    ensure!(!console.contains("e2e: reached"), "it reached the host: {console}");
    ensure!(listener.accept().is_err(), "somebody connected to the host's loopback");
    Ok(())
}

async fn console(client: &Client) -> Result<String> {
    Ok(String::from_utf8_lossy(&client.console_log("web", None).await?).into_owned())
}
