//! Block devices and file systems: /proc/diskstats, /sys/block,
//! /proc/self/mounts and statvfs(3).

use guest_protocol::facts::Filesystem;

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// The unit of /proc/diskstats and of /sys/block/*/size, whatever the device's
/// own sectors are.
const SECTOR_BYTES: u64 = 512;

/// Devices that show other devices or memory, not disks of the machine.
const NOT_DISKS: [&[u8]; 4] = [b"loop", b"ram", b"zram", b"fd"];

/// File systems that lie on a local block device. Others are never asked: a
/// dead server would hold the agent in the kernel for ever.
const ON_A_DEVICE: [&[u8]; 16] = [
    b"ext2",
    b"ext3",
    b"ext4",
    b"xfs",
    b"btrfs",
    b"vfat",
    b"exfat",
    b"ntfs",
    b"ntfs3",
    b"zfs",
    b"f2fs",
    b"jfs",
    b"reiserfs",
    b"bcachefs",
    b"squashfs",
    b"erofs",
];

/// File systems that are told of only as the root.
const AS_ROOT: [&[u8]; 4] = [b"overlay", b"rootfs", b"ramfs", b"tmpfs"];

/// The longest mount point that is told, in bytes: it is a key of the facts.
const MAX_MOUNT_POINT_BYTES: usize = 512;

/// What a block device has done since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The kernel's name.
    pub name: String,
    /// Read, in bytes.
    pub read_bytes: u64,
    /// Written, in bytes.
    pub written_bytes: u64,
    /// Reads.
    pub read_operations: u64,
    /// Writes.
    pub write_operations: u64,
}

/// A mounted local file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub mount_point: String,
    /// What.
    pub device: String,
    /// Its type.
    pub fs_type: String,
}

/// All block devices and partitions that may be disks, at most `limit`.
pub fn counters(limit: usize, scratch: &mut Scratch) -> Result<Vec<Counters>, ReadError> {
    let text = procfs::read("/proc/diskstats", scratch)?;
    Ok(parse_diskstats(text).take(limit).collect())
}

/// The size of a whole disk, in bytes; `None` for partitions and for devices
/// without a medium.
pub fn size_bytes(name: &str, scratch: &mut Scratch) -> Option<u64> {
    // A slash in a device's name is an exclamation mark in sysfs.
    let path = format!("/sys/block/{}/size", name.replace('/', "!"));
    let text = procfs::read(&path, scratch).ok()?;
    let sectors = procfs::number(text.trim_ascii())?;
    (sectors > 0).then(|| sectors.saturating_mul(SECTOR_BYTES))
}

/// The mounted local file systems, at most `limit`, the last mount at each
/// mount point.
pub fn mounts(limit: usize, scratch: &mut Scratch) -> Result<Vec<Mount>, ReadError> {
    let text = procfs::read("/proc/self/mounts", scratch)?;
    Ok(parse_mounts(text).take(limit).collect())
}

/// How full a file system is.
pub fn usage(mount: &Mount) -> Result<Filesystem, ReadError> {
    let stat = rustix::fs::statvfs(&mount.mount_point[..]).map_err(|error| ReadError::Refused {
        what: format!("statvfs({})", mount.mount_point),
        source: error.into(),
    })?;
    let unit = stat.f_frsize;
    Ok(Filesystem {
        device: mount.device.clone(),
        fs_type: mount.fs_type.clone(),
        total_bytes: stat.f_blocks.saturating_mul(unit),
        used_bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(unit),
        available_bytes: stat.f_bavail.saturating_mul(unit),
    })
}

fn parse_diskstats(text: &[u8]) -> impl Iterator<Item = Counters> {
    procfs::lines(text).filter_map(parse_diskstats_line)
}

fn parse_diskstats_line(line: &[u8]) -> Option<Counters> {
    let mut fields = procfs::fields(line).skip(2);
    let name = fields.next()?;
    if NOT_DISKS.iter().any(|&kind| is_numbered(name, kind)) {
        return None;
    }
    let mut numbers = fields.map(procfs::number);
    let read_operations = numbers.next()??;
    let read_sectors = numbers.nth(1)??;
    let write_operations = numbers.nth(1)??;
    let written_sectors = numbers.nth(1)??;
    Some(Counters {
        name: procfs::string(name),
        read_bytes: read_sectors.saturating_mul(SECTOR_BYTES),
        written_bytes: written_sectors.saturating_mul(SECTOR_BYTES),
        read_operations,
        write_operations,
    })
}

/// Whether `name` is `kind` and a number, as `loop0` is.
fn is_numbered(name: &[u8], kind: &[u8]) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

fn parse_mounts(text: &[u8]) -> impl Iterator<Item = Mount> {
    procfs::lines(text).filter_map(|line| {
        let mut fields = procfs::fields(line);
        let (device, mount_point, fs_type) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted =
            ON_A_DEVICE.contains(&fs_type) || (mount_point == b"/" && AS_ROOT.contains(&fs_type));
        (wanted && mount_point.len() <= MAX_MOUNT_POINT_BYTES).then(|| Mount {
            mount_point: unescape(mount_point),
            device: unescape(device),
            fs_type: procfs::string(fs_type),
        })
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> String {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(octal);
        plain.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sectors_become_bytes_and_loop_devices_are_left_out() {
        let text = b"   7       0 loop0 11 0 22 0 0 0 0 0 0 0 0\n 254       0 vda 100 5 2048 9 \
            50 6 1024 8 0 10 11 0 0 0 0\n   8 0 fda 1\n";
        let all: Vec<_> = parse_diskstats(text).collect();
        assert_eq!(
            all,
            [Counters {
                name: "vda".into(),
                read_bytes: 2048 * 512,
                written_bytes: 1024 * 512,
                read_operations: 100,
                write_operations: 50,
            }]
        );
    }

    #[test]
    fn network_file_systems_are_never_asked() {
        let text = b"server:/x /mnt nfs4 rw 0 0\n//s/x /smb cifs rw 0 0\n\
            s:/y /fuse fuse.sshfs rw 0 0\ntmpfs /run tmpfs rw 0 0\nproc /proc proc rw 0 0\n\
            /dev/vda1 / ext4 rw 0 0\n/dev/vdb /a\\040b xfs rw 0 0\n";
        let points: Vec<_> = parse_mounts(text).map(|mount| mount.mount_point).collect();
        assert_eq!(points, ["/", "/a b"]);
    }

    #[test]
    fn an_initramfs_shows_its_root() {
        let all: Vec<_> = parse_mounts(b"rootfs / rootfs rw 0 0\n").collect();
        assert_eq!(all[0].fs_type, "rootfs");
        assert!(usage(&all[0]).unwrap().total_bytes > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            parse_diskstats(&text).count();
            parse_mounts(&text).count();
            unescape(&text);
        }

        #[test]
        fn lines_of_nonsense_are_survived(text in "[ 0-9a-z\\\\/\n]{0,200}") {
            parse_diskstats(text.as_bytes()).count();
            parse_mounts(text.as_bytes()).count();
        }
    }
}
