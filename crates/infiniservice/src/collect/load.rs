//! The load averages.

use std::time::Instant;

use guest_protocol::facts::Facts;

use super::Collector;
use crate::sys::{ReadError, Scratch, load};

#[derive(Debug)]
pub(super) struct LoadCollector;

impl Collector for LoadCollector {
    fn name(&self) -> &'static str {
        "load"
    }

    fn collect(
        &mut self,
        _: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        facts.load = Some(load::averages(buffer)?);
        Ok(())
    }
}
