//! Clocks, and the identity of this boot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// Since the kernel started, time in suspension included.
pub fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// The wall clock, since the Unix epoch; zero while it stands before that.
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The kernel's random identifier of this boot.
pub fn boot_id(scratch: &mut Scratch) -> Result<String, ReadError> {
    procfs::read("/proc/sys/kernel/random/boot_id", scratch).map(procfs::string)
}
