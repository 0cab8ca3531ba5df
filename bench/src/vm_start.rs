//! From "start" to the agent's hello: by the daemon, and by the daemon's own
//! command line started by hand, which is the limit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::build::HostPrograms;
use lab::daemon::{Daemon, Settings};
use lab::guest::{CMDLINE, Contents};
use lab::qemu::{BOOT_LIMIT, MEMORY_MIB};
use lab::results::{self, Table};
use serde_json::json;
use vmm_api::client::{Client, Next};
use vmm_api::event::EventKind;
use vmm_api::guest::AgentState;
use vmm_api::operation::{Operation, OperationState};

use crate::by_hand::CommandLine;
use crate::guest_wire;
use crate::samples::Samples;

/// Rounds of by hand, by the daemon, and by hand again.
const ROUNDS: usize = 20;
const VM: &str = "bench";

/// Measures and publishes.
pub fn run(programs: &Path, agent: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("ib-bench-").tempdir_in("/tmp")?;
    // QEMU runs as somebody else and must reach its VM's folder.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open)?;
    let tree = lab::Tree::locate()?;
    let kernel = lab::kernel::obtain(&tree, &|line| eprintln!("{line}"))?;
    let initrd = folder.path().join("initrd");
    let contents = Contents { kernel: &kernel, agent: Some(agent), programs: &[], files: &[] };
    lab::guest::build(&contents, &initrd)?;
    let settings = Settings {
        programs: HostPrograms {
            daemon: programs.join("vmm-service"),
            vmmctl: programs.join("vmmctl"),
        },
        folder: folder.path().join("d"),
        environment: Vec::new(),
    };
    let spec = json!({
        "name": VM, "vcpus": 1, "memory_mib": MEMORY_MIB,
        "kernel": kernel.image, "initrd": initrd, "cmdline": CMDLINE,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(settings.socket());
    let vms = settings.vms();
    let daemon = Daemon::start(settings)?;
    let id = runtime.block_on(client.create(&spec))?.id;

    // The first start is not counted: it warms the page cache, and leaves the
    // command line.
    runtime.block_on(by_daemon(&client))?;
    let command_line = CommandLine::of(&vms.join(id.to_string()))?;
    runtime.block_on(end(&client))?;

    let mut figures = Figures::default();
    let by_hand_folder = folder.path().join("h");
    std::fs::create_dir(&by_hand_folder)?;
    for round in 1..=ROUNDS {
        figures.by_hand.push(by_hand(&command_line, &by_hand_folder)?.as_secs_f64() * 1e3);
        figures.by_daemon.push(runtime.block_on(by_daemon(&client))?.as_secs_f64() * 1e3);
        runtime.block_on(end(&client))?;
        figures.by_hand_again.push(by_hand(&command_line, &by_hand_folder)?.as_secs_f64() * 1e3);
        eprintln!("round {round} of {ROUNDS}: {figures}");
    }
    daemon.stop()?;
    publish(&figures)
}

/// All in milliseconds.
#[derive(Default)]
struct Figures {
    by_hand: Samples,
    by_daemon: Samples,
    by_hand_again: Samples,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "by hand {:.0}, by the daemon {:.0} ms", self.by_hand, self.by_daemon)
    }
}

/// From the request to word of the agent's hello, as a user of the API sees it.
async fn by_daemon(client: &Client) -> Result<Duration> {
    let mut events = client.events(None, None).await?;
    let begun = Instant::now();
    client.start(VM).await?;
    let hello = async {
        loop {
            let Next::Event(received) = events.next().await? else { continue };
            match received.event.kind {
                EventKind::Agent { agent: AgentState::Connected } => return Ok(begun.elapsed()),
                EventKind::Operation {
                    operation: Operation { state: OperationState::Failed, error, .. },
                } => {
                    bail!("the VM did not start: {}", error.unwrap_or_default())
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(BOOT_LIMIT, hello).await.context("the agent was not heard")?
}

async fn end(client: &Client) -> Result<()> {
    let operation = client.kill(VM).await?;
    let ended = client.wait(operation, BOOT_LIMIT).await?;
    anyhow::ensure!(ended.state == OperationState::Succeeded, "{ended:?}");
    Ok(())
}

/// From the start of QEMU to the agent's hello, read at the channel's socket.
fn by_hand(command_line: &CommandLine, folder: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let machine = command_line.start(folder)?;
    let mut channel = guest_wire::Client::connect(&folder.join("agent.sock"))?;
    channel.wait_for(|message| message["event"] == "HELLO")?;
    let elapsed = begun.elapsed();
    drop(machine);
    Ok(elapsed)
}

fn publish(figures: &Figures) -> Result<()> {
    let ratio = figures.by_daemon.ratio(&figures.by_hand);
    let row = |name: &str, samples: &Samples, ratio: String| {
        vec![name.to_owned(), format!("{samples:.0}"), ratio]
    };
    let limit = 1.05 * figures.by_hand.median() + 50.0;
    results::publish(
        "vm-start",
        &Table {
            head: vec!["start to the agent's hello", "ms", "÷ by hand"],
            rows: vec![
                row("the daemon's command line by hand", &figures.by_hand, "1".to_owned()),
                row(
                    "by hand again (A/A)",
                    &figures.by_hand_again,
                    format!("{:.3}", figures.by_hand_again.ratio(&figures.by_hand)),
                ),
                row("by the daemon", &figures.by_daemon, format!("{ratio:.3}")),
            ],
            notes: vec![format!(
                "{ROUNDS} rounds in turn. To reach: at most 1.05 × by hand + 50 ms, which is {limit:.0} ms here."
            )],
        },
    )
}
