//! Block devices and local file systems.

use std::collections::BTreeMap;
use std::time::Instant;

use guest_protocol::facts::{Disk, Facts};

use super::Collector;
use super::rate::Rates;
use crate::sys::{ReadError, Scratch, disk};

/// The most devices and partitions that are looked at, and the most file
/// systems that are told: with the interfaces they stay below the channel's
/// limit of 10,000 keys.
const MAX_DEVICES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct DiskCollector {
    rates: Rates,
}

impl Collector for DiskCollector {
    fn name(&self) -> &'static str {
        "disks"
    }

    fn collect(
        &mut self,
        now: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        let mut disks = BTreeMap::new();
        for counters in disk::counters(MAX_DEVICES, buffer)? {
            let Some(size_bytes) = disk::size_bytes(&counters.name, buffer) else { continue };
            let moved = [counters.read_bytes, counters.written_bytes];
            let rates = self.rates.update(&counters.name, now, moved);
            let disk = Disk {
                size_bytes,
                read_bytes: counters.read_bytes,
                written_bytes: counters.written_bytes,
                read_operations: counters.read_operations,
                write_operations: counters.write_operations,
                read_bytes_per_second: rates.map(|[read, _]| read),
                written_bytes_per_second: rates.map(|[_, written]| written),
            };
            disks.insert(counters.name, disk);
        }
        self.rates.forget_all_but(now);
        facts.disks = Some(disks);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct FilesystemCollector;

impl Collector for FilesystemCollector {
    fn name(&self) -> &'static str {
        "filesystems"
    }

    fn collect(
        &mut self,
        _: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        let mut filesystems = BTreeMap::new();
        for mount in disk::mounts(MAX_DEVICES, buffer)? {
            match disk::usage(&mount) {
                Ok(usage) => {
                    filesystems.insert(mount.mount_point, usage);
                }
                Err(error) => tracing::debug!(%error, "A file system is left out."),
            }
        }
        facts.filesystems = Some(filesystems);
        Ok(())
    }
}
