//! Hardware virtualisation's door on this host.

use std::os::unix::fs::MetadataExt as _;

/// The bits by which a device's group may read and write it.
const GROUP_MAY_USE: u32 = 0o060;

/// The group that may use KVM, if there is one besides root's.
pub fn group() -> Option<u32> {
    let device = std::fs::metadata("/dev/kvm").ok()?;
    (device.mode() & GROUP_MAY_USE == GROUP_MAY_USE && device.gid() != 0).then_some(device.gid())
}
