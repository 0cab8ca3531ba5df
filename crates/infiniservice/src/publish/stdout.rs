//! The facts as indented JSON on a stream, for people and scripts.

use std::io::{self, Write};

use guest_protocol::facts::Facts;

use super::Publisher;

/// Writes each report to a stream, and a newline after it.
#[derive(Debug)]
pub struct JsonWriter<W> {
    out: W,
}

impl<W: Write> JsonWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> Publisher for JsonWriter<W> {
    fn publish(&mut self, facts: &Facts) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, facts)?;
        writeln!(self.out)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_the_facts() {
        let facts = crate::collect::Collectors::default().collect();
        let mut out = Vec::new();
        JsonWriter::new(&mut out).publish(&facts).unwrap();
        assert_eq!(serde_json::from_slice::<Facts>(&out).unwrap(), facts);
        assert!(out.ends_with(b"}\n"));
    }
}
