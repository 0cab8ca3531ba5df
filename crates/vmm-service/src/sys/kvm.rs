//! Hardware virtualisation's door on this host.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

/// The bits by which a device's group may read and write it.
const GROUP_MAY_USE: u32 = 0o060;
/// The bits by which everybody may.
const ALL_MAY_USE: u32 = 0o006;

/// Who may open the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// There is no device.
    Absent,
    /// There is one.
    There {
        /// Its permission bits.
        mode: u32,
        /// Its group.
        gid: u32,
    },
}

/// How the door stands now.
pub fn door() -> Door {
    std::fs::metadata("/dev/kvm").map_or(Door::Absent, |device| Door::There {
        mode: device.mode() & 0o777,
        gid: device.gid(),
    })
}

/// The group that may use KVM, if there is one besides root's.
pub fn group() -> Option<u32> {
    door().group()
}

impl Door {
    fn group(self) -> Option<u32> {
        match self {
            Self::There { mode, gid } if mode & GROUP_MAY_USE == GROUP_MAY_USE && gid != 0 => {
                Some(gid)
            }
            Self::There { .. } | Self::Absent => None,
        }
    }

    /// Why no machine's user can come through, and what to do. `None` when one
    /// can.
    pub fn closed(self) -> Option<String> {
        match self {
            Self::Absent => Some(
                "there is no /dev/kvm; load the module kvm_intel or kvm_amd, and turn \
                 virtualisation on in the host's firmware"
                    .into(),
            ),
            Self::There { mode, .. }
                if self.group().is_none() && mode & ALL_MAY_USE != ALL_MAY_USE =>
            {
                Some(format!(
                    "/dev/kvm ({self}) can be opened by root alone, and VMs run under other \
                     users; give it the group kvm and the mode 660"
                ))
            }
            Self::There { .. } => None,
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::There { mode, gid } => write!(f, "mode {mode:o}, group {gid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_no_machine_comes_through_is_told() {
        let door = |mode, gid| Door::There { mode, gid };
        assert_eq!(door(0o660, 104).group(), Some(104));
        assert_eq!(door(0o660, 104).closed(), None);
        assert_eq!(door(0o666, 0).closed(), None);
        assert_eq!(door(0o660, 0).group(), None);
        for closed in [door(0o600, 0), door(0o660, 0), door(0o640, 104), Door::Absent] {
            assert!(closed.closed().unwrap().contains("/dev/kvm"), "{closed}");
        }
    }
}
