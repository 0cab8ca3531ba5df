//! The only place of the daemon that knows the operating system: processes,
//! descriptors, namespaces, control groups. Everything unsafe lies here.

pub mod cgroup;
pub mod confine;
pub mod descriptor;
pub mod fence;
pub mod files;
pub mod host;
pub mod kvm;
pub mod memory;
pub mod process;
pub mod scope;
pub mod session;
pub mod socket;

#[cfg(test)]
mod test_entry;
