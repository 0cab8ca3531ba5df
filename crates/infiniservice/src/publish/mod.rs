//! Where the facts go.

pub mod channel;
pub mod stdout;

use std::io;

use guest_protocol::facts::Facts;

/// Takes facts to somebody who wants them.
pub trait Publisher {
    /// Takes the newest facts. They replace what was not taken away yet:
    /// nobody wants an old report.
    fn publish(&mut self, facts: &Facts) -> io::Result<()>;
}
