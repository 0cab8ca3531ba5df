//! The memory.

use std::time::Instant;

use guest_protocol::facts::Facts;

use super::Collector;
use crate::sys::{ReadError, Scratch, memory};

#[derive(Debug)]
pub(super) struct MemoryCollector;

impl Collector for MemoryCollector {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn collect(
        &mut self,
        _: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        facts.memory = Some(memory::usage(buffer)?);
        Ok(())
    }
}
