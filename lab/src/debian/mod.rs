//! A whole Debian with systemd, for what only a real host shows: units, scopes,
//! control groups, a shutdown in order, a power cut. The small guest of
//! [`crate::guest`] boots in a tenth of the time and is what all else uses.
//!
//! The image is made once and cached. A test boots a copy of it ([`disk`]), with
//! the programs of today put onto it before systemd begins ([`initrd`]), and has
//! commands run in it by QEMU's guest agent ([`Debian::run`]).

mod agent;
mod image;
mod initrd;
mod machine;

pub use agent::Ran;
pub use image::{disk, obtain};
pub use initrd::{File, initrd};
pub use machine::{BOOT_LIMIT, Boot, Debian};
