//! Reading the small text files of /proc and /sys into one reused buffer, and
//! taking their lines apart. Apart from the readers because all of them do it.

use std::fs::File;
use std::io::Read;

use crate::sys::{ReadError, Scratch};

/// The longest text that is read from one file, in bytes. The files are a few
/// kilobytes; a file that grew beyond this is cut, not followed.
const MAX_TEXT_BYTES: usize = 256 * 1024;

/// How the buffer grows, in bytes: most files fit into the first step.
const STEP_BYTES: usize = 4 * 1024;

/// Reads `path` to its end, or to the limit.
pub(super) fn read<'a>(path: &str, scratch: &'a mut Scratch) -> Result<&'a [u8], ReadError> {
    read_up_to(path, MAX_TEXT_BYTES, scratch)
}

/// Reads the beginning of `path`, at most `limit` bytes.
pub(super) fn read_up_to<'a>(
    path: &str,
    limit: usize,
    scratch: &'a mut Scratch,
) -> Result<&'a [u8], ReadError> {
    let refused = |source| ReadError::Refused { what: path.to_owned(), source };
    let mut file = File::open(path).map_err(refused)?;
    let mut filled = 0;
    while filled < limit {
        if scratch.len() < filled + STEP_BYTES {
            scratch.resize(filled + STEP_BYTES, 0);
        }
        match file.read(&mut scratch[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(&scratch[..filled.min(limit)])
}

/// The lines of a text.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// The fields of a line, which blanks separate.
pub(super) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

/// A decimal number without a sign.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// A text of the kernel's as a string; what is not UTF-8 is replaced.
pub(super) fn string(field: &[u8]) -> String {
    String::from_utf8_lossy(field.trim_ascii()).into_owned()
}
