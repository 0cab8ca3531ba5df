//! `vmmctl log`: the console as the guest wrote it; tamed on a terminal.

use vmm_api::client::{Client, Error};

use crate::cli::Log;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::sanitize::{self, sanitize};

/// How much of the log is asked for at first for each line that is wanted.
const BYTES_PER_LINE: u64 = 200;

/// The longest line that is shown on a terminal, in characters.
const MAX_LINE_CHARS: usize = 4096;

pub(super) async fn run(client: &Client, output: Output, log: &Log) -> Result<(), Failure> {
    let about = |error| Failure::about(&log.name, error);
    let bytes = match log.lines {
        None => client.console_log(&log.name, None).await.map_err(about)?.to_vec(),
        Some(lines) => tail(client, &log.name, lines).await.map_err(about)?,
    };
    if !output.terminal {
        return output.raw(&bytes);
    }
    output.raw(tamed(&bytes).as_bytes())
}

/// The last lines: asks for more until there are enough or there is no more.
async fn tail(client: &Client, name: &str, lines: usize) -> Result<Vec<u8>, Error> {
    let wanted = u64::try_from(lines).unwrap_or(u64::MAX).saturating_add(1);
    let mut ask = wanted.saturating_mul(BYTES_PER_LINE);
    loop {
        let bytes = client.console_log(name, Some(ask)).await?;
        let whole = (bytes.len() as u64) < ask;
        if let Some(start) = start_of_tail(&bytes, lines, whole) {
            return Ok(bytes[start..].to_vec());
        }
        ask = ask.saturating_mul(4);
    }
}

/// Where the last `lines` lines begin; `None` when that lies before `bytes`,
/// which is only possible unless they are the `whole`.
fn start_of_tail(bytes: &[u8], lines: usize, whole: bool) -> Option<usize> {
    if lines == 0 {
        return Some(bytes.len());
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match ends.nth(lines - 1) {
        Some((end, _)) => Some(end + 1),
        None => whole.then_some(0),
    }
}

/// The log line by line, without what would act on the terminal.
fn tamed(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut tamed = String::with_capacity(text.len());
    for line in text.lines() {
        let plain = sanitize::without_colours(line.trim_end_matches('\r')).replace('\t', "    ");
        tamed.push_str(&sanitize(&plain, MAX_LINE_CHARS));
        tamed.push('\n');
    }
    tamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_last_lines() {
        assert_eq!(start_of_tail(b"a\nb\nc\n", 2, true), Some(2));
        assert_eq!(start_of_tail(b"a\nb\nc", 1, false), Some(4));
        assert_eq!(start_of_tail(b"a\nb\n", 2, true), Some(0));
        assert_eq!(start_of_tail(b"a\nb\n", 2, false), None);
        assert_eq!(start_of_tail(b"a\nb\n", 0, false), Some(4));
        assert_eq!(start_of_tail(b"", 3, true), Some(0));
    }

    #[test]
    fn tames_what_a_guest_wrote() {
        let console = b"[\x1b[32m OK \x1b[0m] ready\r\n\x1b]0;owned\x07\xff\n";
        assert_eq!(tamed(console), "[ OK ] ready\n\\x1b]0;owned\\x07\u{fffd}\n");
    }
}
