//! QEMU's monitor protocol: one JSON object a line, commands matched to their
//! answers by id, events in between.

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// The longest line that is read, in bytes. QEMU's longest answer, its own
/// schema, has 200 KB; a QEMU that was taken over must not fill our memory.
const LONGEST_LINE: usize = 4 << 20;

/// How much is read at a time.
const CHUNK: usize = 8 << 10;

/// How much of QEMU's reason for a refusal is kept, in characters.
const LONGEST_REASON: usize = 300;

/// The id of the commands of the handshake.
const HANDSHAKE: u64 = 0;

/// How many events may come between a handshake's question and its answer.
const EVENTS_BEFORE_ANSWER: usize = 256;

/// A connection that has greeted.
pub(super) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Up to where the buffer was searched for the end of a line.
    searched: usize,
}

/// What QEMU said.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// The answer to the command with this id: its value, or QEMU's refusal.
    Answer(u64, Result<Value, String>),
    /// Something happened.
    Event {
        /// Its name, such as `SHUTDOWN`.
        name: String,
        /// What belongs to it.
        data: Value,
    },
}

/// Why a monitor cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("the monitor's connection failed")]
    Io(#[source] io::Error),
    #[error("the monitor closed the connection")]
    Closed,
    #[error("the monitor sent a line longer than {LONGEST_LINE} bytes")]
    TooLong,
    #[error("the monitor sent what is no QMP: {0}")]
    NotQmp(String),
    #[error("the monitor refused {command}: {desc}")]
    Refused { command: String, desc: String },
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Connection {
    /// Connects and greets. QEMU serves one client: while there is another, this
    /// waits, so give it a deadline.
    pub(super) async fn open(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path).await.map_err(QmpError::Io)?;
        let mut connection = Self { stream, buffer: Vec::new(), searched: 0 };
        let line = connection.line().await?;
        if line.greeting.is_none() {
            return Err(QmpError::NotQmp("no greeting".into()));
        }
        connection.execute("qmp_capabilities", Value::Null).await?;
        Ok(connection)
    }

    /// Sends a command.
    pub(super) async fn send(
        &mut self,
        id: u64,
        command: &str,
        arguments: Value,
    ) -> Result<(), QmpError> {
        let mut object = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            object["arguments"] = arguments;
        }
        let mut line = object.to_string().into_bytes();
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(QmpError::Io)
    }

    /// Sends a command and waits for its answer; for as long as nobody else
    /// uses the connection. Events that come before the answer are dropped.
    pub(super) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        self.send(HANDSHAKE, command, arguments).await?;
        for _ in 0..EVENTS_BEFORE_ANSWER {
            if let Incoming::Answer(HANDSHAKE, answer) = self.next().await? {
                return answer
                    .map_err(|desc| QmpError::Refused { command: command.to_owned(), desc });
            }
        }
        Err(QmpError::NotQmp(format!("no answer to {command} among {EVENTS_BEFORE_ANSWER} lines")))
    }

    /// What QEMU says next. May be dropped at any time without losing a byte.
    pub(super) async fn next(&mut self) -> Result<Incoming, QmpError> {
        loop {
            let line = self.line().await?;
            if let Some(name) = line.event {
                return Ok(Incoming::Event { name, data: line.data });
            }
            let answer = match (line.error, line.value) {
                (Some(refusal), _) => Err(shown(&refusal.desc)),
                (None, value) => Ok(value.unwrap_or(Value::Null)),
            };
            if let Some(id) = line.id {
                return Ok(Incoming::Answer(id, answer));
            }
        }
    }

    async fn line(&mut self) -> Result<Line, QmpError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let end = self.searched + end;
                let line = serde_json::from_slice(&self.buffer[..end])
                    .map_err(|error| QmpError::NotQmp(error.to_string()));
                self.buffer.drain(..=end);
                // One long line does not take its memory for ever.
                self.buffer.shrink_to(CHUNK);
                self.searched = 0;
                return line;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LONGEST_LINE {
                return Err(QmpError::TooLong);
            }
            self.buffer.reserve(CHUNK);
            if self.stream.read_buf(&mut self.buffer).await.map_err(QmpError::Io)? == 0 {
                return Err(QmpError::Closed);
            }
        }
    }
}

/// QEMU's words, fit to be logged and shown.
fn shown(desc: &str) -> String {
    desc.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A monitor that sends `script` after its greeting and the answer to the
    /// handshake.
    async fn against(script: &[u8]) -> (Connection, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let opening = tokio::spawn(async move { Connection::open(&path).await.unwrap() });
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(b"{\"QMP\": {}}\r\n{\"event\":\"X\"}\n{\"return\": {}, \"id\": 0}\n")
            .await
            .unwrap();
        let mut handshake = [0; 128];
        assert!(peer.read(&mut handshake).await.unwrap() > 0);
        peer.write_all(script).await.unwrap();
        (opening.await.unwrap(), peer)
    }

    #[tokio::test]
    async fn answers_and_events_are_told_apart() {
        let script = b"{\"return\": 1, \"id\": 5}\r\n{\"event\": \"STOP\", \"timestamp\": {}}\r\n\
                       {\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 6}\n{\"new\": 1}\n{\"event\":\"E\",\"data\":7}\n";
        let (mut connection, peer) = against(script).await;
        assert_eq!(connection.next().await.unwrap(), Incoming::Answer(5, Ok(1.into())));
        let stop = Incoming::Event { name: "STOP".into(), data: Value::Null };
        assert_eq!(connection.next().await.unwrap(), stop);
        assert_eq!(connection.next().await.unwrap(), Incoming::Answer(6, Err("no".into())));
        // A line of a kind that we do not know is passed over.
        assert_eq!(
            connection.next().await.unwrap(),
            Incoming::Event { name: "E".into(), data: 7.into() }
        );
        drop(peer);
        assert!(matches!(connection.next().await, Err(QmpError::Closed)));
    }

    #[test]
    fn a_reason_is_short_and_plain() {
        assert_eq!(shown("no\x1b[2J\n"), "no[2J");
        assert_eq!(shown(&"x".repeat(1 << 20)).len(), LONGEST_REASON);
    }

    #[tokio::test]
    async fn garbage_and_lines_without_end_are_refused() {
        let (mut connection, _peer) = against(b"hello\n").await;
        assert!(matches!(connection.next().await, Err(QmpError::NotQmp(_))));
        let (mut connection, mut peer) = against(b"").await;
        let flood =
            tokio::spawn(async move { while peer.write_all(&[b' '; 1 << 16]).await.is_ok() {} });
        assert!(matches!(connection.next().await, Err(QmpError::TooLong)));
        drop(connection);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn a_line_that_comes_in_pieces_survives_a_dropped_wait() {
        let (mut connection, mut peer) = against(b"{\"return\":").await;
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, connection.next()).await.is_err());
        peer.write_all(b" 3, \"id\": 1}\n").await.unwrap();
        assert_eq!(connection.next().await.unwrap(), Incoming::Answer(1, Ok(3.into())));
    }
}
