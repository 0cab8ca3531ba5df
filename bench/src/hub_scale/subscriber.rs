//! The subscriber: a process that reads `GET /events`, measures from the moment
//! at which a guest sent a report to the moment at which it is here, and counts
//! what did not come. As small as a client can be, for it shares the processors
//! with what is measured.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::reports::{now_us, stamp};
use crate::samples::percentile_us;

/// What came since the question before.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Heard {
    /// Reports.
    pub reports: usize,
    /// Reports that did not come, though a later one of the same guest did.
    pub lost: u64,
    /// Events that the daemon says it did not deliver, and gaps in their ids.
    pub missed: u64,
    /// From the guest's write to here, in microseconds.
    pub p50_us: f64,
    /// From the guest's write to here, in microseconds.
    pub p99_us: f64,
}

#[derive(Default)]
struct Ears {
    delays_ns: Vec<u64>,
    lost: u64,
    missed: u64,
    last_id: Option<u64>,
    /// The number of each guest's last report, by the VM's id.
    last: HashMap<[u8; 36], u64>,
}

/// Listens to the daemon at `socket` until its standard input ends; answers
/// each line there.
pub fn run(socket: &Path) -> Result<()> {
    let ears = Arc::new(Mutex::new(Ears::default()));
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: vmm\r\naccept: text/event-stream\r\n\r\n")?;
    let mut stream = BufReader::with_capacity(256 * 1024, stream);
    skip_head(&mut stream)?;
    let listening = std::thread::spawn({
        let ears = Arc::clone(&ears);
        move || listen(stream, &ears)
    });
    println!("ready");
    for question in std::io::stdin().lines() {
        question?;
        if listening.is_finished() {
            return listening.join().unwrap_or_else(|_| bail!("the listener panicked"));
        }
        let heard = ears.lock().unwrap_or_else(PoisonError::into_inner).tell();
        println!("{}", serde_json::to_string(&heard)?);
    }
    Ok(())
}

fn skip_head(stream: &mut impl BufRead) -> Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200"), "the daemon refused: {line}");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line)?;
    }
    Ok(())
}

/// Takes the chunks apart, and the lines in them.
fn listen(mut stream: impl BufRead, ears: &Mutex<Ears>) -> Result<()> {
    let (mut head, mut bytes) = (String::new(), Vec::new());
    loop {
        head.clear();
        stream.read_line(&mut head)?;
        let length = usize::from_str_radix(head.trim_end(), 16).context("no chunk's length")?;
        ensure!(length > 0, "the daemon ended the stream");
        let held = bytes.len();
        bytes.resize(held + length, 0);
        stream.read_exact(&mut bytes[held..])?;
        stream.read_line(&mut head)?;
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else { continue };
        let text = std::str::from_utf8(&bytes[..=end])?;
        let now = now_us();
        let mut ears = ears.lock().unwrap_or_else(PoisonError::into_inner);
        text.lines().for_each(|line| ears.line(line, now));
        drop(ears);
        bytes.drain(..=end);
    }
}

impl Ears {
    fn line(&mut self, line: &str, now: u64) {
        if let Some(id) = line.strip_prefix("id: ") {
            let id = id.rsplit_once('-').and_then(|(_, sequence)| sequence.parse().ok());
            let (Some(id), last) = (id, self.last_id) else { return };
            self.missed += last.map_or(0, |last| u64::saturating_sub(id, last + 1));
            self.last_id = Some(id);
        } else if let Some(event) = line.strip_prefix("data: ") {
            let vm = event.strip_prefix("{\"vm\":\"").and_then(|rest| rest.get(..36));
            let vm = vm.and_then(|vm| <[u8; 36]>::try_from(vm.as_bytes()).ok());
            let (Some(vm), Some((number, sent_us))) = (vm, stamp(event)) else { return };
            self.delays_ns.push(now.saturating_sub(sent_us) * 1000);
            if let Some(last) = self.last.insert(vm, number) {
                self.lost += number.saturating_sub(last + 1);
            }
        }
    }

    fn tell(&mut self) -> Heard {
        let mut delays = std::mem::take(&mut self.delays_ns);
        let reports = delays.len();
        if reports == 0 {
            // JSON has no number for what was not measured.
            delays.push(0);
        }
        Heard {
            reports,
            lost: std::mem::take(&mut self.lost),
            missed: std::mem::take(&mut self.missed),
            p50_us: percentile_us(&mut delays, 50),
            p99_us: percentile_us(&mut delays, 99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_is_counted() {
        let mut ears = Ears::default();
        let vm = "00000000-0000-4000-8000-000000000000";
        for (id, number) in [(5, 0), (6, 1), (9, 4)] {
            ears.line(&format!("id: 1f-{id}"), 0);
            let n = super::super::reports::FIRST + number;
            let replay = format!("\"replay\":{{\"at_us\":1000,\"n\":{n}}}");
            let event = format!("data: {{\"vm\":\"{vm}\",\"facts\":{{{replay}}}}}");
            ears.line(&event, 3000);
        }
        let heard = ears.tell();
        assert_eq!((heard.reports, heard.lost, heard.missed), (3, 2, 2));
        assert!((heard.p50_us - 2000.0).abs() < 1e-9);
    }
}
