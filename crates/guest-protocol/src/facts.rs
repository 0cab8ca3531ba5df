//! What a guest tells about itself, as plain types with the units in their
//! names. Sections that a collector could not read are absent; collections are
//! objects keyed by something that stays the same while the thing exists, so
//! that a merge patch names exactly what changed. Null is never a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that a guest has told. Each section has one collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The operating system.
    pub os: Option<Os>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The processors.
    pub cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The memory.
    pub memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The load averages.
    pub load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// How long the guest has been up.
    pub uptime: Option<Uptime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Block devices, keyed by kernel name (`vda`).
    pub disks: Option<BTreeMap<String, Disk>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Mounted local file systems, keyed by mount point.
    pub filesystems: Option<BTreeMap<String, Filesystem>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Network interfaces, keyed by name.
    pub interfaces: Option<BTreeMap<String, Interface>>,
}

/// The operating system, from os-release(5) and uname(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `linux`, `windows` or `freebsd`.
    pub family: String,
    /// os-release's `ID`, such as `debian`; empty when there is none.
    pub id: String,
    /// A name for people, such as `Debian GNU/Linux 12 (bookworm)`.
    pub pretty_name: String,
    /// os-release's `VERSION_ID`; empty when there is none.
    pub version_id: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel_release: String,
    /// The machine's architecture, as `uname -m` prints it.
    pub architecture: String,
    /// The host name.
    pub hostname: String,
}

/// The processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// The model's name for people.
    pub model: String,
    /// Processors that are online.
    pub online: u32,
    /// Share of all processors' time since the last collection that was not
    /// idle, 0 to 100. Absent in the first collection, which has nothing to
    /// compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_percent: Option<f64>,
    /// Time the hypervisor gave to others although this guest wanted it, as a
    /// share like `usage_percent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal_percent: Option<f64>,
}

/// The memory, from /proc/meminfo on Linux.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the kernel manages, in bytes.
    pub total_bytes: u64,
    /// What a new program could have without swapping, in bytes.
    pub available_bytes: u64,
    /// Swap space, in bytes.
    pub swap_total_bytes: u64,
    /// Unused swap space, in bytes.
    pub swap_free_bytes: u64,
}

/// Load averages, from /proc/loadavg.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Over one minute.
    pub one_minute: f64,
    /// Over five minutes.
    pub five_minutes: f64,
    /// Over fifteen minutes.
    pub fifteen_minutes: f64,
}

/// How long the guest has been up. Told as the moment of the boot so that it
/// does not change with every report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uptime {
    /// The boot's moment by the guest's clock, in seconds since the epoch.
    pub boot_time_s: u64,
    /// Seconds since the boot when the last report was made.
    pub uptime_s: u64,
}

/// A block device, from /proc/diskstats and /sys/block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Read since boot, in bytes.
    pub read_bytes: u64,
    /// Written since boot, in bytes.
    pub written_bytes: u64,
    /// Reads since boot.
    pub read_operations: u64,
    /// Writes since boot.
    pub write_operations: u64,
    /// Over the last interval; absent in the first collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_second: Option<u64>,
    /// Over the last interval; absent in the first collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes_per_second: Option<u64>,
}

/// A mounted local file system, from /proc/self/mounts and statvfs(3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filesystem {
    /// What is mounted, such as `/dev/vda1`.
    pub device: String,
    /// Its type, such as `ext4`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// Its size in bytes.
    pub total_bytes: u64,
    /// What is used, in bytes.
    pub used_bytes: u64,
    /// What a user without privileges may still write, in bytes.
    pub available_bytes: u64,
}

/// A network interface, from getifaddrs(3) and /sys/class/net.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// The hardware address, `52:54:00:…`; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Whether the interface is up and has a carrier.
    pub up: bool,
    /// Addresses with their prefix length, such as `10.0.2.15/24`, sorted.
    pub addresses: Vec<String>,
    /// Received since boot, in bytes.
    pub received_bytes: u64,
    /// Sent since boot, in bytes.
    pub sent_bytes: u64,
    /// Over the last interval; absent in the first collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes_per_second: Option<u64>,
    /// Over the last interval; absent in the first collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes_per_second: Option<u64>,
}
