//! What the host has, and what it lets this process have.

use std::num::NonZero;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The host's memory in MiB.
pub fn memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram.saturating_mul(u64::from(info.mem_unit).max(1));
    total / (1 << 20)
}

/// The processors that this process may use.
pub fn processors() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(processors).unwrap_or(u32::MAX)
}

/// Raises the limit on open files as far as the process may by itself, and says
/// what it is now. Each VM takes a handful, so the usual 1,024 would be full at
/// some 200.
///
/// # Errors
///
/// When the kernel refuses.
pub fn raise_open_files() -> std::io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(limit.current.unwrap_or(u64::MAX));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_memory_and_processors() {
        assert!(memory_mib() > 16);
        assert!(processors() >= 1);
    }

    #[test]
    fn the_limit_on_open_files_is_at_its_end_afterwards() {
        let raised = raise_open_files().unwrap();
        assert_eq!(raise_open_files().unwrap(), raised);
    }
}
