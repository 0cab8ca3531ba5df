//! The daemon's doors, and what it says when it cannot start.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::scene::Scene;

/// The user that owns nothing.
const NOBODY: u32 = 65534;
/// How long a daemon that cannot start may take to say so.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

/// TCP tells that the daemon is there, and nothing else.
pub async fn tcp_answers_only_health(scene: Scene) -> Result<()> {
    let port = free_port()?;
    let mut settings = scene.settings();
    settings.environment.push(("VMM_API_PORT".into(), port.to_string().into()));
    scene.start_daemon_with(settings).await?;
    tokio::task::spawn_blocking(move || {
        let health = ask(port, "GET /health")?;
        ensure!(health.starts_with("HTTP/1.1 200"), "{health}");
        for request in ["GET /vms", "POST /vms", "GET /events", "GET /metrics", "DELETE /vms/web"] {
            let answer = ask(port, request)?;
            ensure!(answer.starts_with("HTTP/1.1 401"), "{request}: {answer}");
            ensure!(answer.contains("application/problem+json"), "{request}: {answer}");
        }
        Ok(())
    })
    .await?
}

/// The unix socket is root's alone.
pub async fn the_socket_is_for_root(scene: Scene) -> Result<()> {
    scene.start_daemon().await?;
    let socket = scene.settings().socket();
    let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "its mode is {mode:o}");
    // Even where somebody has opened it to others.
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666))?;
    let folder = socket.parent().context("a folder")?;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
    // Where it was built others may not look.
    let vmmctl = folder.join("vmmctl");
    std::fs::copy(&scene.stage().programs.vmmctl, &vmmctl)?;
    let mut command = Command::new(vmmctl);
    command.arg("--socket").arg(&socket).arg("list").uid(NOBODY).gid(NOBODY);
    let output = tokio::process::Command::from(command).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(5) && said.contains("root"), "{}: {said}", output.status);
    Ok(())
}

/// A second daemon on the same state, on the same socket or on the same machines
/// leaves with a sentence, and the first one does not notice.
pub async fn a_second_daemon_leaves(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let (first, second) = (scene.settings(), scene.folder().join("second"));
    let (state, socket, vms) = (first.folder.join("state.db"), first.socket(), first.vms());
    let own = [second.join("state.db"), second.join("vmm.sock"), second.join("vms")];
    let shared = [
        [&state, &own[1], &own[2]],
        [&own[0], &socket, &own[2]],
        [&own[0], &own[1], &vms],
        [&state, &socket, &vms],
    ];
    for [state, socket, vms] in shared {
        let mut command = Command::new(&scene.stage().programs.daemon);
        command.env("VMM_STATE_URL", format!("sqlite://{}", state.display()));
        command.env("VMM_SOCKET", socket).env("VMM_VM_DIR", vms).env("VMM_API_PORT", "0");
        let ended = tokio::process::Command::from(command).kill_on_drop(true).output();
        let output = tokio::time::timeout(REFUSAL_LIMIT, ended).await.context("it stayed")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("another"), "{}: {said}", output.status);
        client.health().await?;
    }
    Ok(())
}

/// Every mistake in the configuration is told at once.
pub async fn all_mistakes_in_the_configuration_are_told(scene: Scene) -> Result<()> {
    let config = scene.folder().join("wrong.conf");
    std::fs::write(&config, "colour = \"red\"\n")?;
    let mut command = Command::new(&scene.stage().programs.daemon);
    command.arg("--config").arg(&config).arg("--check-config");
    command.env("VMM_API_PORT", "99999").env("VMM_LOG_LEVEL", "loud");
    command.env("VMM_STATE_URL", "http://form-state:3004");
    let output = tokio::process::Command::from(command).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64), "{}: {said}", output.status);
    for word in ["colour", "99999", "loud", "form-state", "sqlite://"] {
        ensure!(said.contains(word), "{word} is not in: {said}");
    }
    Ok(())
}

/// A port that is free now. Another program may take it before the daemon
/// does; then the test fails and says so.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn ask(port: u16, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(REFUSAL_LIMIT))?;
    write!(
        stream,
        "{request} HTTP/1.1\r\nhost: vmm\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
