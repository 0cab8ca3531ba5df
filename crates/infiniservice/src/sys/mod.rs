//! The only place that knows an operating system. Each system has a folder with
//! the same file names in it, and the rest of the agent sees only these names.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub use linux::*;

use std::io;

/// A thing of the operating system that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{what} could not be read")]
    Refused {
        /// The path or the call.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came does not look like what the kernel's documentation says.
    #[error("{what} does not have the expected form")]
    Form {
        /// The path or the call.
        what: &'static str,
    },
}

/// The buffer that every read of a collection shares, so that a collection
/// costs no memory of its own.
pub type Scratch = Vec<u8>;
