//! Giving back the program's own pages that only the start needed. They are
//! clean pages of the program's file, so the kernel reads them again from its
//! cache if they are needed after all; until then they count for nobody.

#![expect(unsafe_code, reason = "madvise(2) takes an address")]

use rustix::mm::{Advice, madvise};

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// A mapping of a file, as /proc/self/smaps tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// Neither writable, nor ever written: what is there is what the file says.
    is_clean: bool,
}

/// Gives the pages back; how many bytes of mappings they are of.
pub fn give_back() -> Result<usize, ReadError> {
    let mut scratch = Scratch::new();
    let text = procfs::read("/proc/self/smaps", &mut scratch)?;
    let own = std::fs::read_link("/proc/self/exe")
        .map_err(|source| ReadError::Refused { what: "/proc/self/exe".into(), source })?;
    let mut given = 0;
    for mapping in clean_mappings(text, own.as_os_str().as_encoded_bytes()) {
        let length = mapping.end - mapping.start;
        // SAFETY: the range is one whole mapping of this program's file, which
        // is read-only and of which no page was ever changed (the dynamic
        // relocations were, and those mappings are not clean). Its content is
        // the same when it is read from the file again.
        let given_back = unsafe { madvise(mapping.start as *mut _, length, Advice::LinuxDontNeed) };
        if given_back.is_ok() {
            given += length;
        }
    }
    Ok(given)
}

/// The mappings of the file `own` that may be dropped.
fn clean_mappings(smaps: &[u8], own: &[u8]) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut is_own = false;
    for line in procfs::lines(smaps) {
        if let Some((start, end, permissions)) = heading(line) {
            is_own = !permissions.contains(&b'w') && !own.is_empty() && line.ends_with(own);
            if is_own {
                found.push(Mapping { start, end, is_clean: false });
            }
        } else if is_own
            && line.starts_with(b"Anonymous:")
            && let Some(mapping) = found.last_mut()
        {
            mapping.is_clean = procfs::fields(line).nth(1) == Some(b"0");
        }
    }
    found.retain(|mapping| mapping.is_clean);
    found
}

/// `start-end permissions …`, the first two in hexadecimal.
fn heading(line: &[u8]) -> Option<(usize, usize, &[u8])> {
    let mut fields = procfs::fields(line);
    let range = std::str::from_utf8(fields.next()?).ok()?;
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (start < end).then_some((start, end, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_clean_and_read_only_mappings_of_the_program_are_dropped() {
        let smaps = b"1000-2000 r--p 00000000 fe:00 7 /bin/agent\nRss: 4 kB\nAnonymous: 0 kB\n\
            2000-9000 r-xp 00001000 fe:00 7 /bin/agent\nAnonymous:             0 kB\n\
            9000-a000 r--p 00008000 fe:00 7 /bin/agent\nAnonymous:             4 kB\n\
            a000-b000 rw-p 00009000 fe:00 7 /bin/agent\nAnonymous:             0 kB\n\
            b000-c000 r-xp 00000000 fe:00 8 /lib/other\nAnonymous:             0 kB\n\
            c000-d000 r--p 00000000 00:00 0\nAnonymous:             0 kB\n";
        let dropped: Vec<_> =
            clean_mappings(smaps, b"/bin/agent").iter().map(|it| (it.start, it.end)).collect();
        assert_eq!(dropped, [(0x1000, 0x2000), (0x2000, 0x9000)]);
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        assert!(give_back().unwrap() > 0);
        assert!(give_back().unwrap() > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>, own: Vec<u8>) {
            clean_mappings(&text, &own);
        }
    }
}
