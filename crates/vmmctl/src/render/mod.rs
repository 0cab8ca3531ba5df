//! How things look: pure functions from values to text, without I/O.

pub(crate) mod bar;
pub(crate) mod channel;
pub(crate) mod clock;
pub(crate) mod event;
pub(crate) mod guest;
pub(crate) mod sanitize;
pub(crate) mod table;
#[cfg(test)]
mod tests;
pub(crate) mod text;
pub(crate) mod units;
pub(crate) mod vm;
pub(crate) mod watch;
