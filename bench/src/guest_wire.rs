//! A blocking client of the guest channel, as small as a client can be: what it
//! costs is part of every figure, on the peer's side as on ours.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// How long any one answer may take before the benchmark gives up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A connection to an agent.
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bytes in `buffer` that belong to answers not yet taken.
    filled: usize,
}

impl Client {
    /// Connects, waiting for the socket to be listened on.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => std::thread::yield_now(),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} is not listening", socket.display()));
                }
            }
        };
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024], filled: 0 })
    }

    /// Opens a session with infiniservice: hello, its hello, confirmation.
    pub fn hello(&mut self) -> anyhow::Result<()> {
        let clock = json!({"seconds": jiff::Timestamp::now().as_second(), "microseconds": 0});
        let mut arguments = json!({
            "protocols": [1], "session": "bench", "clock": clock, "heartbeat_s": 3600,
        });
        self.send(&json!({"execute": "agent-hello", "arguments": arguments}))?;
        let hello = self.wait_for(|message| message["event"] == "HELLO")?;
        arguments["peer_session"] = hello["data"]["session"].clone();
        self.send(&json!({"execute": "agent-hello", "arguments": arguments, "id": "confirmed"}))?;
        self.wait_for(|message| message["id"] == "confirmed")?;
        Ok(())
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Value) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).context("the agent does not take the request")
    }

    /// Reads messages until one is `wanted`.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        while Instant::now() < deadline {
            let line = self.line()?;
            let message: Value = serde_json::from_slice(&line)
                .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&line)))?;
            if wanted(&message) {
                return Ok(message);
            }
        }
        bail!("the agent did not answer within {ANSWER_DEADLINE:?}")
    }

    /// Writes `request` and reads to the end of a line, `count` times in turn;
    /// each round trip in nanoseconds. The caller makes sure that nothing else
    /// is being said meanwhile.
    pub fn round_trips(&mut self, request: &[u8], count: usize) -> anyhow::Result<Vec<u64>> {
        let mut durations = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.stream.write_all(request)?;
            loop {
                let read = self.stream.read(&mut self.buffer)?;
                if read == 0 {
                    bail!("the agent closed the connection");
                }
                if self.buffer[read - 1] == b'\n' {
                    break;
                }
            }
            durations.push(start.elapsed().as_nanos() as u64);
        }
        Ok(durations)
    }

    fn line(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer[..self.filled].iter().position(|&byte| byte == b'\n') {
                // An agent that opened its port begins with a reset, 0xFF.
                let begin = self.buffer[..end].iter().take_while(|&&byte| byte == 0xFF).count();
                let line = self.buffer[begin..end].to_vec();
                self.buffer.copy_within(end + 1..self.filled, 0);
                self.filled -= end + 1;
                return Ok(line);
            }
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..])?;
            if read == 0 {
                bail!("the agent closed the connection");
            }
            self.filled += read;
        }
    }
}
