//! The built program as its operator and its host meet it: flags, exit codes,
//! a session over a unix socket, and its end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

fn infiniservice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infiniservice"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn output(arguments: &[&str]) -> Output {
    infiniservice(arguments).output().unwrap()
}

/// A running agent, killed when it is dropped.
struct Agent {
    process: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let process = infiniservice(&["--listen", socket.to_str().unwrap()])
            .args(more)
            .env("STATE_DIRECTORY", folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let agent = Self { process, socket, _folder: folder };
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(&agent.socket).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::yield_now();
        }
        agent
    }

    fn terminate(&self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// The exit code and what was logged.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.process.wait().unwrap();
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Host {
    stream: BufReader<UnixStream>,
    hello: Value,
}

impl Host {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut host = Self { stream: BufReader::new(stream), hello: Value::Null };
        host.hello = host.wait_for(|message| message["event"] == "HELLO");
        host
    }

    fn confirm(mut self) -> Self {
        let arguments = json!({
            "protocols": [1], "session": "host", "peer_session": self.hello["data"]["session"],
            "clock": {"seconds": 1, "microseconds": 0}, "heartbeat_s": 1,
        });
        self.send(&json!({"execute": "agent-hello", "arguments": arguments, "id": "confirmed"}));
        self.wait_for(|message| message["id"] == "confirmed");
        self
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.stream.get_mut(), "{message}").unwrap();
    }

    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "the agent did not say it");
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the agent hung up");
            let message = serde_json::from_str(&line).unwrap();
            if wanted(&message) {
                return message;
            }
        }
    }
}

#[test]
fn print_tells_the_facts_once() {
    let output = output(&["--print"]);
    assert!(output.status.success());
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(facts["memory"]["total_bytes"].as_u64().unwrap() > 0);
    assert!(facts["cpu"]["usage_percent"].as_f64().is_some());
    assert_eq!(facts["os"]["family"], "linux");
}

#[test]
fn help_and_version_are_printed() {
    assert!(String::from_utf8(output(&["--help"]).stdout).unwrap().contains("--listen PATH"));
    let version = String::from_utf8(output(&["--version"]).stdout).unwrap();
    assert_eq!(version, concat!("infiniservice ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn wrong_flags_are_two_lines_each_and_exit_64() {
    for (arguments, named) in [
        (&["--divice", "/dev/x"][..], "--divice"),
        (&["--interval", "0"], "--interval 0"),
        (&["--profile", "root"], "root"),
        (&["--channel", "../x"], "../x"),
        (&["--config", "/nowhere/x.toml"], "/nowhere/x.toml"),
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("error: ") && said.contains(named), "{said}");
        assert!(said.lines().nth(1).unwrap().starts_with("  help: "), "{said}");
    }
    let both = output(&["--interval", "0", "--profile", "root"]);
    assert_eq!(String::from_utf8(both.stderr).unwrap().lines().count(), 4);
}

#[test]
fn a_host_is_told_the_facts_and_may_not_shut_down() {
    let agent = Agent::start(&["--interval", "1"]);
    let mut host = Host::connect(&agent.socket);
    host.send(&json!({"execute": "guest-ping", "id": "too early"}));
    let mut host = host.confirm();
    let stage = host.wait_for(|message| message["event"] == "LIFECYCLE");
    assert_eq!(stage["data"]["stage"], "kernel-started");
    let full = host.wait_for(|message| message["event"] == "REPORT");
    assert_eq!(full["data"]["full"], true);
    assert!(full["data"]["facts"]["os"]["kernel_release"].is_string());
    let next = host.wait_for(|message| message["event"] == "REPORT");
    assert_eq!((&next["data"]["seq"], &next["data"]["full"]), (&json!(2), &json!(false)));

    host.send(&json!({"execute": "guest-shutdown", "id": 1}));
    let refused = host.wait_for(|message| message["id"] == 1);
    assert_eq!(refused["error"]["class"], "CommandNotFound");
    host.send(&json!({"execute": "guest-ping", "id": 2}));
    let answer = host.wait_for(|message| !message["id"].is_null());
    assert_eq!(answer, json!({"return": {}, "id": 2}));
}

#[test]
fn the_identity_outlives_the_agent_and_the_session_does_not() {
    let agent = Agent::start(&[]);
    let first = Host::connect(&agent.socket).hello;
    let second = Host::connect(&agent.socket).hello;
    assert_eq!(first["data"]["agent_id"], second["data"]["agent_id"]);
    assert_ne!(first["data"]["session"], second["data"]["session"]);
    assert_eq!(second["data"]["capabilities"].as_array().unwrap().len(), 7);
}

#[test]
fn a_signal_ends_the_agent_with_last_words() {
    let agent = Agent::start(&[]);
    let mut host = Host::connect(&agent.socket).confirm();
    agent.terminate();
    let words = host.wait_for(|message| message["data"]["stage"] == "shutdown-started");
    assert!(words["data"]["uptime_ms"].as_u64().unwrap() > 0);
    let socket = agent.socket.clone();
    let (code, log) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists());
}

#[test]
fn a_host_that_does_not_read_cannot_hold_the_agent() {
    let agent = Agent::start(&["--interval", "1"]);
    let mut host = Host::connect(&agent.socket).confirm();
    // Answers pile up until the agent stops reading and this side cannot write.
    host.stream.get_ref().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = "{\"execute\":\"guest-info\"}\n".repeat(1000);
    while host.stream.get_mut().write_all(request.as_bytes()).is_ok() {}
    let resident = resident_kib(agent.process.id());
    assert!(resident < 16 * 1024, "{resident} KiB resident");
    let asked = Instant::now();
    agent.terminate();
    let (code, log) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{log}");
    assert!(log.contains("last words"), "{log}");
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
