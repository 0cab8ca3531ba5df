//! The memory: /proc/meminfo (proc_meminfo(5)).

use guest_protocol::facts::Memory;

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// The memory now.
pub fn usage(scratch: &mut Scratch) -> Result<Memory, ReadError> {
    let text = procfs::read("/proc/meminfo", scratch)?;
    parse(text).ok_or(ReadError::Form { what: "/proc/meminfo" })
}

fn parse(text: &[u8]) -> Option<Memory> {
    let mut memory = Memory::default();
    let mut total = None;
    let mut available = None;
    let mut free = 0;
    for line in procfs::lines(text) {
        let mut fields = procfs::fields(line);
        let (Some(key), Some(value)) = (fields.next(), fields.next()) else { continue };
        let Some(bytes) = procfs::number(value).map(|kib| kib.saturating_mul(1024)) else {
            continue;
        };
        match key {
            b"MemTotal:" => total = Some(bytes),
            b"MemFree:" => free = bytes,
            b"MemAvailable:" => available = Some(bytes),
            b"SwapTotal:" => memory.swap_total_bytes = bytes,
            b"SwapFree:" => memory.swap_free_bytes = bytes,
            _ => {}
        }
    }
    memory.total_bytes = total?;
    // Kernels before 3.14 have no estimate; what is free is at least available.
    memory.available_bytes = available.unwrap_or(free);
    Some(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_come_in_bytes() {
        let text = b"MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  400 kB\n\
            HugePages_Total: 0\nSwapTotal: 8 kB\nSwapFree: 4 kB\n";
        assert_eq!(
            parse(text).unwrap(),
            Memory {
                total_bytes: 1_024_000,
                available_bytes: 409_600,
                swap_total_bytes: 8192,
                swap_free_bytes: 4096,
            }
        );
    }

    #[test]
    fn without_an_estimate_the_free_memory_is_available() {
        assert_eq!(parse(b"MemTotal: 9 kB\nMemFree: 1 kB\n").unwrap().available_bytes, 1024);
        assert!(parse(b"MemFree: 1 kB\n").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            parse(&text);
        }
    }
}
