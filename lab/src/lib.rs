//! Builds guests and boots them, for the demo, the whole-system tests and the
//! benchmarks: real kernels, real QEMU, the built programs. Nothing here is
//! shipped. `docs/lab.md` tells how it works and what a guest offers.
//!
//! Everything is synchronous: the lab starts programs and waits for them, and
//! asynchronous callers put that on a thread of their own.

pub mod accel;
pub mod build;
pub mod cpio;
pub mod daemon;
pub mod debian;
pub mod guest;
pub mod kernel;
pub mod packages;
pub mod program;
pub mod qemu;
pub mod results;
pub mod tree;
pub mod volatile_disk;
pub mod wait;

pub use tree::Tree;

/// Where a step of the lab tells, in a sentence, what it is doing.
pub type Say<'a> = &'a dyn Fn(&str);
