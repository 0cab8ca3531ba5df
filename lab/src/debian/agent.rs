//! Running commands in the guest: by QEMU's own guest agent, which Debian has
//! and which needs no login, no network and no shell's prompt to be guessed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// How long one question may go unanswered before it is asked on a new
/// connection: an agent that was started again has lost it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks whether a command has ended.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; nothing when a signal ended it.
    pub status: Option<i64>,
    /// What it wrote to its standard output.
    pub output: String,
    /// What it wrote to its standard error.
    pub errors: String,
}

/// One client's connection to the guest's agent.
pub(super) struct Agent {
    reader: BufReader<UnixStream>,
}

impl Agent {
    /// Connects, and waits until the agent answers.
    pub(super) fn connect(socket: &Path, until: Instant) -> Result<Self> {
        loop {
            let answer = UnixStream::connect(socket)
                .map_err(anyhow::Error::from)
                .and_then(|stream| Self::greet(stream, until));
            match answer {
                Err(error) if Instant::now() >= until => {
                    return Err(error).context("the guest's agent did not answer in time");
                }
                Err(_) => std::thread::park_timeout(INTERVAL),
                greeted => return greeted,
            }
        }
    }

    fn greet(stream: UnixStream, until: Instant) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let left = until.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.clamp(INTERVAL, ANSWER_LIMIT)))?;
        let mut agent = Self { reader: BufReader::new(stream) };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        agent.send(&json!({"execute": "guest-sync", "arguments": {"id": id}}))?;
        // Answers to an earlier client may come first.
        while agent.receive()?.get("return") != Some(&json!(id)) {}
        Ok(agent)
    }

    /// Starts a script of the shell and gives its process id.
    pub(super) fn start(&mut self, script: &str) -> Result<u64> {
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true});
        let begun = self.ask("guest-exec", &arguments)?;
        begun["pid"].as_u64().with_context(|| format!("the guest's agent said {begun}"))
    }

    /// What the script came to, when it has ended.
    pub(super) fn ended(&mut self, pid: u64) -> Result<Option<Ran>> {
        let status = self.ask("guest-exec-status", &json!({"pid": pid}))?;
        if status["exited"] != json!(true) {
            std::thread::park_timeout(INTERVAL);
            return Ok(None);
        }
        let text = |key: &str| -> Result<String> {
            let encoded = status[key].as_str().unwrap_or_default();
            let bytes = BASE64_STANDARD.decode(encoded).context("no base64 from the agent")?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Some(Ran {
            status: status["exitcode"].as_i64(),
            output: text("out-data")?,
            errors: text("err-data")?,
        }))
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(&json!({"execute": command, "arguments": arguments}))?;
        let mut answer = self.receive()?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => bail!("{command}: the guest's agent said {answer}"),
        }
    }

    fn send(&mut self, question: &Value) -> Result<()> {
        let stream = self.reader.get_mut();
        writeln!(stream, "{question}").context("the guest's agent cannot be written to")
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).context("no answer of the guest's agent")?;
        if count == 0 {
            bail!("QEMU closed the connection to the guest's agent");
        }
        // An agent that begins may send a byte that ends what came before.
        serde_json::from_str(line.trim_start_matches('\u{fffd}'))
            .with_context(|| format!("no JSON from the guest's agent: {line:?}"))
    }
}
