//! `vmm-service`: runs virtual machines on this host and shows what happens
//! inside them. Flags, then configuration, then logging, then the program.

mod events;
mod guest;
mod hypervisor;
mod store;
mod vm;

fn main() {}
