//! The REST contract of `vmm-service`: what goes over the wire between the
//! daemon and whoever operates it. No I/O, but for the typed client behind the
//! feature `client`.

pub mod event;
pub mod guest;
pub mod list;
pub mod operation;
pub mod problem;
pub mod vm;

#[cfg(feature = "client")]
pub mod client;
