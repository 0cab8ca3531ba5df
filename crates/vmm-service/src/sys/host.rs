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

/// What the daemon has open for one VM that runs: the monitor, the agent's
/// channel, QEMU's process twice (for whoever kills it, and for whoever waits for
/// its end) and its keeper's.
const OPEN_FILES_A_VM: u64 = 5;

/// What it has open beside them: two doors of 1,024 connections, state, log, and
/// what is open only for a moment.
const OTHER_OPEN_FILES: u64 = 2_200;

/// How many VMs can run at a time with so many open files.
pub fn vms_with(open_files: u64) -> u64 {
    open_files.saturating_sub(OTHER_OPEN_FILES) / OPEN_FILES_A_VM
}

/// How many open files so many running VMs need.
pub fn open_files_for(vms: u64) -> u64 {
    vms.saturating_mul(OPEN_FILES_A_VM).saturating_add(OTHER_OPEN_FILES)
}

/// Whether something failed because too many files are open, in this process or
/// on the host.
pub fn is_out_of_files(error: &std::io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// How many files this process may have open.
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit on open files as far as the process may by itself.
///
/// # Errors
///
/// When the kernel refuses.
pub fn raise_open_files() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
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
    fn the_open_files_of_so_many_vms_suffice_for_so_many_vms() {
        for vms in [0, 1, 10_000] {
            assert_eq!(vms_with(open_files_for(vms)), vms);
        }
        assert_eq!(vms_with(1024), 0);
    }

    #[test]
    fn the_limit_on_open_files_is_at_its_end_afterwards() {
        raise_open_files().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(open_files(), limit.maximum.unwrap_or(u64::MAX));
    }
}
