//! The demo's lines, each with the seconds since its beginning.

use std::time::Instant;

/// Counts from its making.
pub struct Progress {
    begun: Instant,
}

impl Progress {
    /// The clock runs from here.
    pub fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        println!("[{:6.1} s] {line}", self.begun.elapsed().as_secs_f64());
    }
}
