//! Virtual machines: what is asked for and what is there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::guest::GuestSummary;

/// What a virtual machine should be, as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// `[a-z0-9][a-z0-9.-]{0,62}`, never in the form of a UUID.
    pub name: String,
    /// Virtual processors, 1 to 255.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// A kernel image on the host, for direct kernel boot. Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The kernel's initial RAM file system. Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Disks, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Network interfaces, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicSpec>,
    /// Free text by key, for the operator's own filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is started when the host has booted.
    #[serde(default)]
    pub autostart: bool,
}

/// What of a VM is to be another way: the body of `PATCH /vms/{id}`, a merge
/// patch (RFC 7396) of its specification. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct VmPatch {
    /// Whether it is started when the host has booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The image on the host. Absolute.
    pub path: String,
    /// How the image is laid out. Never probed: a guest could write a header
    /// of another format into its own raw disk.
    pub format: DiskFormat,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// How a disk image is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are those of QEMU's block drivers")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// Where its packets go.
    pub network: Network,
    /// The hardware address; made from the VM's id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// Where a network interface's packets go. Neither reaches the host's
/// loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nowhere: an address by DHCP from a network of the VM's own, which has
    /// no way out.
    Isolated,
    /// Out through the host's addresses by passt(1), without the host itself.
    Passt,
}

/// A virtual machine as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vm {
    /// Its identity for as long as it exists.
    pub id: Uuid,
    /// What was asked for.
    pub spec: VmSpec,
    /// What its hypervisor does with it.
    pub state: State,
    /// Why the state is what it is, where that needs saying: the reason of
    /// `failed`, how the last run ended, a keeper that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_detail: Option<String>,
    /// The hypervisor's process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was created, by the host's clock.
    pub created_at: Timestamp,
    /// When the state last changed, by the host's clock.
    pub state_changed_at: Timestamp,
    /// How far the guest is.
    pub guest: GuestSummary,
}

/// What the hypervisor does with a VM. How far the guest is lies beside it, in
/// [`GuestSummary`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the state diagram in ARCHITECTURE.md")]
pub enum State {
    Created,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Failed,
    Deleting,
}

impl State {
    /// Every state, in the order of a VM's life.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Deleting,
    ];

    /// The word that stands for it on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A page of VMs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmList {
    /// In the order that was asked for.
    pub vms: Vec<Vm>,
    /// How many VMs there are.
    pub total: u64,
    /// How many of them fit the filters, on this page or not.
    pub matched: u64,
    /// Hand this back as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The body of `stop`; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Kill the VM when it is not down after so many seconds; 60 when absent,
    /// never when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_after_s: Option<u32>,
}

/// The body of `restart`; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RestartRequest {
    /// Stop and start, with a new hypervisor process, instead of a reboot in
    /// the same one.
    pub cold: bool,
    /// Reset (or kill, when cold) when the guest has not gone down by itself
    /// after so many seconds; 60 when absent, never when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_after_s: Option<u32>,
}
