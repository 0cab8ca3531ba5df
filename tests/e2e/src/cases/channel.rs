//! The channel itself, with a guest whose host end is in the test's hands.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guest_protocol::limits::MAX_OBJECT_BYTES;
use lab::accel;
use lab::qemu::{BOOT_LIMIT, Boot, Guest};
use serde_json::{Value, json};
use vmm_api::event::EventKind;
use vmm_api::guest::AgentState;
use vmm_api::vm::{RestartRequest, State};

use crate::scene::{Scene, connected, succeeded};
use crate::wait::until;

/// How often the host's end is closed and opened.
const RECONNECTS: usize = 100;
/// How long one answer of an agent may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The host goes away and comes back a hundred times; the agent says hello each
/// time, and answers.
pub async fn survives_a_hundred_reconnects(scene: Scene) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let guest = boot_by_hand(&scene)?;
        for round in 0..RECONNECTS {
            let mut host = Host::connect(&guest).with_context(|| format!("round {round}"))?;
            host.open_session().with_context(|| format!("round {round}"))?;
            let ping = json!({"execute": "guest-ping", "id": round});
            let answer = host.ask(&ping).with_context(|| format!("round {round}"))?;
            ensure!(answer["return"] == json!({}), "round {round}: {answer}");
        }
        Ok(())
    })
    .await?
}

/// A shutdown that waited in the queue since before the agent opened its port
/// is not obeyed; one that is asked for afterwards is.
pub async fn a_stale_shutdown_does_not_run(scene: Scene) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let mut guest = boot_by_hand(&scene)?;
        let mut host = Host::connect(&guest)?;
        for _ in 0..3 {
            host.send(&json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}))?;
        }
        // Nor does a wrong confirmation open the door.
        host.hello(Some("somebody-elses-session"))?;
        host.send(&json!({"execute": "guest-shutdown"}))?;

        host.open_session()?;
        host.ask(&json!({"execute": "guest-ping", "id": "alive"}))?;
        let down = "Power down";
        ensure!(!guest.console().contains(down), "it obeyed a stale request");

        host.send(&json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}))?;
        guest.wait_for_exit(BOOT_LIMIT).context("a fresh shutdown was not obeyed")?;
        Ok(())
    })
    .await?
}

/// The agent dies and is started again: a new session, and the facts go on.
pub async fn an_agent_that_is_killed_comes_back(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let mut events = client.events(None, None).await?;
    client.create(&scene.spec_with("web", "lab.run=agent-killed")).await?;
    scene.start(&client, "web").await?;
    connected(&client, "web").await?;
    // The second full report is the second session's.
    let mut full_reports = 0;
    tokio::time::timeout(BOOT_LIMIT, async {
        while full_reports < 2 {
            if let vmm_api::client::Next::Event(received) = events.next().await?
                && matches!(received.event.kind, EventKind::Facts { full: true, .. })
            {
                full_reports += 1;
            }
        }
        anyhow::Ok(())
    })
    .await
    .context("the agent did not come back")??;
    ensure!(client.vm("web").await?.guest.agent == AgentState::Connected, "it is not connected");
    Ok(())
}

/// A guest that reboots keeps its process, and its agent says hello anew.
pub async fn a_guest_that_reboots_is_heard_again(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let before = scene.boot(&client, &scene.spec("web")).await?;
    let boots = || async {
        let guest = client.guest("web").await?;
        Ok::<_, anyhow::Error>(guest.facts.uptime.map(|uptime| uptime.boot_time_s))
    };
    let first = until("the first boot's uptime", ANSWER_LIMIT, boots).await?;
    succeeded(&client, client.restart("web", &RestartRequest::default()).await?).await?;
    until("the second boot", BOOT_LIMIT, || async {
        Ok(boots().await?.filter(|boot| *boot != first))
    })
    .await?;
    let after = connected(&client, "web").await?;
    ensure!(after.pid == before.pid && after.state == State::Running, "{after:?}");
    Ok(())
}

fn boot_by_hand(scene: &Scene) -> Result<Guest> {
    let stage = scene.stage();
    let boot = Boot {
        kernel: &stage.kernel.image,
        initrd: &stage.initrd(),
        options: "",
        accelerator: accel::find(&lab::Tree::locate()?, &stage.programs.daemon)?,
        network: false,
        disk: None,
        ports: &[],
    };
    let guest = Guest::start(&boot, &scene.folder().join("vm"))?;
    stage.count_guest();
    Ok(guest)
}

/// The host's end, spelled out, so that a test can misuse it.
struct Host {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Host {
    fn connect(guest: &Guest) -> Result<Self> {
        let stream = guest.channel()?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, reader })
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        Ok(writeln!(self.stream, "{message}")?)
    }

    fn hello(&mut self, peer_session: Option<&str>) -> Result<()> {
        let mut arguments = json!({
            "protocols": [1], "session": "by-hand", "heartbeat_s": 1,
            "clock": {"seconds": 1_700_000_000, "microseconds": 0},
        });
        if let Some(session) = peer_session {
            arguments["peer_session"] = session.into();
        }
        self.send(&json!({"execute": "agent-hello", "arguments": arguments}))
    }

    /// Says hello until a hello comes back, and confirms it.
    fn open_session(&mut self) -> Result<()> {
        self.hello(None)?;
        let hello = self.wait_for(|message| message["event"] == "HELLO")?;
        self.confirm(&hello)
    }

    fn confirm(&mut self, hello: &Value) -> Result<()> {
        let session = hello["data"]["session"].as_str().context("a session")?.to_owned();
        self.hello(Some(&session))
    }

    /// Asks until there is an answer. The agent may see the last host's end only
    /// now; it begins a new session then, and what was asked before is void.
    fn ask(&mut self, request: &Value) -> Result<Value> {
        loop {
            self.send(request)?;
            let answer = self.wait_for(|message| {
                message["id"] == request["id"] || message["event"] == "HELLO"
            })?;
            if answer["event"] != "HELLO" {
                return Ok(answer);
            }
            self.confirm(&answer)?;
        }
    }

    /// Reads on until a message is wanted; foreign bytes are skipped.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let mut line = Vec::new();
            let read = self.reader.read_until(b'\n', &mut line).context("no answer")?;
            if read == 0 {
                bail!("QEMU closed the channel");
            }
            ensure!(read <= MAX_OBJECT_BYTES, "a line of {read} bytes");
            if let Ok(message) = serde_json::from_slice::<Value>(&line)
                && wanted(&message)
            {
                return Ok(message);
            }
        }
    }
}
