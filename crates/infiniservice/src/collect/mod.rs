//! What the agent reads. Each collector fills one part of the facts and knows
//! no operating system: that is what `sys` is for.

mod cpu;
mod disk;
mod load;
mod memory;
mod network;
mod os;
mod rate;
mod uptime;

use std::time::Instant;

use guest_protocol::facts::Facts;

use crate::sys::{ReadError, Scratch};

/// Reads one part of what the facts tell.
pub trait Collector {
    /// What it reads, for the log.
    fn name(&self) -> &'static str;

    /// Fills its part of `facts`. Rates are over the time since the last call;
    /// `now` is the moment of this one. A part that cannot be read stays
    /// absent.
    fn collect(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError>;
}

/// All collectors, with the buffer that they share.
pub struct Collectors {
    all: Vec<Box<dyn Collector>>,
    scratch: Scratch,
}

impl Default for Collectors {
    fn default() -> Self {
        Self {
            all: vec![
                Box::new(os::OsCollector::default()),
                Box::new(cpu::CpuCollector::default()),
                Box::new(memory::MemoryCollector),
                Box::new(load::LoadCollector),
                Box::new(uptime::UptimeCollector::default()),
                Box::new(disk::DiskCollector::default()),
                Box::new(disk::FilesystemCollector),
                Box::new(network::NetworkCollector::default()),
            ],
            scratch: Scratch::new(),
        }
    }
}

impl Collectors {
    /// Everything, as it is now.
    pub fn collect(&mut self) -> Facts {
        let mut facts = Facts::default();
        for collector in &mut self.all {
            if let Err(error) = collector.collect(Instant::now(), &mut self.scratch, &mut facts) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(
                    section = collector.name(), %error, cause,
                    "A section of the facts is absent from this report."
                );
            }
        }
        facts
    }
}
