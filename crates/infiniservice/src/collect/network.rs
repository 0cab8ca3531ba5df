//! Network interfaces.

use std::time::Instant;

use guest_protocol::facts::Facts;

use super::Collector;
use super::rate::Rates;
use crate::sys::{ReadError, Scratch, network};

/// The most interfaces that are told; see the limit on devices.
const MAX_INTERFACES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct NetworkCollector {
    rates: Rates,
}

impl Collector for NetworkCollector {
    fn name(&self) -> &'static str {
        "interfaces"
    }

    fn collect(
        &mut self,
        now: Instant,
        buffer: &mut Scratch,
        facts: &mut Facts,
    ) -> Result<(), ReadError> {
        let mut interfaces = network::interfaces(MAX_INTERFACES, buffer)?;
        for (name, interface) in &mut interfaces {
            let moved = [interface.received_bytes, interface.sent_bytes];
            if let Some([received, sent]) = self.rates.update(name, now, moved) {
                interface.received_bytes_per_second = Some(received);
                interface.sent_bytes_per_second = Some(sent);
            }
        }
        self.rates.forget_all_but(now);
        facts.interfaces = Some(interfaces);
        Ok(())
    }
}
