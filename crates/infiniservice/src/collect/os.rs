//! The operating system.

use std::time::Instant;

use guest_protocol::facts::Facts;

use super::Collector;
use crate::sys::{ReadError, Scratch, os};

/// Reads the distribution's description once: an upgrade of it ends with a
/// reboot, or shows after the agent's next start.
#[derive(Debug, Default)]
pub(super) struct OsCollector {
    release: Option<os::Release>,
}

impl Collector for OsCollector {
    fn name(&self) -> &'static str {
        "os"
    }

    fn collect(
        &mut self,
        _: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        let release = self.release.get_or_insert_with(|| os::release(buffer).unwrap_or_default());
        facts.os = Some(os::describe(release));
        Ok(())
    }
}
