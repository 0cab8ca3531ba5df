//! The only place that knows the operating system.

pub(crate) mod terminal;
