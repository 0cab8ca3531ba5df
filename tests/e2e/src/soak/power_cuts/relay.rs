//! The program that runs in the host whose power is cut, beside the daemon: it
//! puts questions that come through a virtio-serial port to the daemon, and its
//! answers onto that port. A write to the port returns when QEMU has passed the
//! bytes on, so whatever was answered is known outside when the power goes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_api::client::DEFAULT_SOCKET;

/// The name of the port.
pub const PORT: &str = "relay";

/// How long the daemon may take to answer: it waits up to a minute for an
/// operation's end.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// A line to the relay.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Comes back with the answer.
    pub number: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// A request to the daemon.
    Daemon {
        /// The HTTP method.
        method: String,
        /// Path and query.
        path: String,
        /// The idempotency key.
        key: Option<String>,
        /// The body.
        body: Option<Value>,
    },
    /// A script of the shell.
    Run(String),
}

/// A line of the relay.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The question's number; 0 when the relay has begun.
    pub number: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The relay has begun.
    Ready,
    /// The daemon answered.
    Daemon {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Value,
    },
    /// The script succeeded; its standard output.
    Ran(String),
    /// There was no answer.
    Failed(String),
}

/// Relays until the port's other end is gone.
pub fn run(port: &Path) -> Result<()> {
    let port = File::options()
        .read(true)
        .write(true)
        .open(port)
        .with_context(|| format!("cannot open {}", port.display()))?;
    let answers = Mutex::new(port.try_clone()?);
    put(&answers, 0, Outcome::Ready)?;
    std::thread::scope(|scope| {
        for line in BufReader::new(&port).lines() {
            let question: Question = serde_json::from_str(&line?)?;
            let answers = &answers;
            // The test asks a handful of questions at a time.
            scope.spawn(move || {
                let outcome =
                    answer(&question.ask).unwrap_or_else(|e| Outcome::Failed(format!("{e:#}")));
                if let Err(error) = put(answers, question.number, outcome) {
                    eprintln!("an answer could not be passed on: {error:#}");
                }
            });
        }
        Ok(())
    })
}

fn put(port: &Mutex<File>, number: u64, outcome: Outcome) -> Result<()> {
    let mut line = serde_json::to_vec(&Answer { number, outcome })?;
    line.push(b'\n');
    port.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)?;
    Ok(())
}

fn answer(ask: &Ask) -> Result<Outcome> {
    match ask {
        Ask::Daemon { method, path, key, body } => {
            let mut head =
                format!("{method} {path} HTTP/1.1\r\nhost: vmm\r\nconnection: close\r\n");
            if let Some(key) = key {
                head.push_str(&format!("idempotency-key: {key}\r\n"));
            }
            exchange(&head, body.as_ref())
        }
        Ask::Run(script) => {
            let ran = Command::new("sh").arg("-c").arg(script).output()?;
            let errors = String::from_utf8_lossy(&ran.stderr);
            ensure!(ran.status.success(), "`{script}` failed ({}): {errors}", ran.status);
            Ok(Outcome::Ran(String::from_utf8_lossy(&ran.stdout).into_owned()))
        }
    }
}

/// One request, spelled out, so that its body is the same bytes each time and
/// half an answer is none.
fn exchange(head: &str, body: Option<&Value>) -> Result<Outcome> {
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let mut stream = UnixStream::connect(DEFAULT_SOCKET).context("the daemon is not there")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let kind = "content-type: application/json";
    write!(stream, "{head}{kind}\r\ncontent-length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no answer of the daemon")?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Outcome> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.context("the daemon's answer has no head")?;
    let (head, body) = (std::str::from_utf8(&answer[..end])?, &answer[end + 4..]);
    let status = head.split(' ').nth(1).context("the daemon's answer has no status")?.parse()?;
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    for (_, length) in length {
        ensure!(length.trim().parse() == Ok(body.len()), "the daemon's answer is not whole");
    }
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(body)? };
    Ok(Outcome::Daemon { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n{\"id\": 1}";
        let Outcome::Daemon { status, body } = parse(whole).unwrap() else { panic!() };
        assert_eq!((status, body["id"].as_u64()), (201, Some(1)));
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end} bytes");
        }
    }
}
