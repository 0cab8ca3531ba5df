//! From a specification to what a keeper is told to start, with a look at the
//! host: a start that cannot boot anything is refused with the sentence that
//! says what is missing.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use vmm_api::vm::{DiskFormat, DiskSpec, Network, NicSpec, VmSpec};

use super::super::Launch;
use super::command_line::{
    self, Accel, Disk, Hardware, MOST_DISKS, MOST_NICS, MachineType, Nic, NicBackend,
};
use super::users::Users;
use crate::keeper::records::{self, Companion, FileMode, HandedFile, LaunchRecord, Listener};
use crate::sys::files::{self, Access, OpenError};

/// How many files QEMU may open: its disks, its sockets, and the connections of
/// its user network.
pub(super) const OPEN_FILES: u64 = 4096;

/// QEMU's own log is short unless something is wrong.
const QEMU_LOG_BYTES: u64 = 64 << 10;

/// What the host contributes.
pub(super) struct Host<'a> {
    /// QEMU.
    pub(super) qemu: &'a Path,
    /// passt, if it was found.
    pub(super) passt: Option<&'a Path>,
    /// What runs guests.
    pub(super) accel: Accel,
    /// How long each file of the console log becomes.
    pub(super) console_log_bytes: u64,
}

/// What the specification asks for and is not there: a sentence.
pub(super) type Refusal = String;

/// What a keeper is to start. Looks at every file that is named.
pub(super) fn plan(
    launch: &Launch,
    token: String,
    users: Users,
    host: &Host<'_>,
) -> Result<LaunchRecord, Refusal> {
    let spec = &launch.spec;
    let machine_type: MachineType = launch
        .machine_type
        .parse()
        .map_err(|error: command_line::InvalidMachineType| error.to_string())?;
    let files = files(spec)?;
    let companions = companions(spec, &users, host)?;
    let hardware = Hardware {
        id: launch.id,
        token: token.clone(),
        name: spec.name.clone(),
        machine_type,
        accel: host.accel,
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        kernel: spec.kernel.is_some(),
        initrd: spec.initrd.is_some(),
        cmdline: spec.cmdline.clone(),
        disks: spec
            .disks
            .iter()
            .map(|disk| Disk { format: disk.format, read_only: disk.read_only })
            .collect(),
        nics: (0u8..).zip(&spec.nics).map(|(index, nic)| nic_of(launch.id, index, nic)).collect(),
    };
    let listener = |name: &str, number| Listener { name: name.into(), number };
    Ok(LaunchRecord {
        token,
        group: launch.id.to_string(),
        program: host.qemu.to_owned(),
        arguments: command_line::build(&hardware),
        user: users.qemu,
        open_files: OPEN_FILES,
        listeners: vec![
            listener(records::QMP_SOCKET, command_line::QMP_FD),
            listener(records::AGENT_SOCKET, command_line::AGENT_FD),
            listener(records::CONSOLE_SOCKET, command_line::CONSOLE_FD),
        ],
        files,
        companions,
        console_log_bytes: host.console_log_bytes,
        qemu_log_bytes: QEMU_LOG_BYTES,
    })
}

fn files(spec: &VmSpec) -> Result<Vec<HandedFile>, Refusal> {
    if spec.kernel.is_none() && spec.disks.is_empty() {
        return Err("the VM has neither a kernel nor a disk, so there is nothing to boot; \
                    give it a kernel or a disk, or set VMM_KERNEL_PATH"
            .into());
    }
    if spec.kernel.is_none() && (spec.initrd.is_some() || spec.cmdline.is_some()) {
        return Err("initrd and cmdline are for a kernel, and the VM has none".into());
    }
    if spec.disks.len() > MOST_DISKS || spec.nics.len() > MOST_NICS {
        return Err(format!(
            "a VM can have {MOST_DISKS} disks and {MOST_NICS} network interfaces at most"
        ));
    }
    for (field, text) in [("name", Some(&spec.name)), ("cmdline", spec.cmdline.as_ref())] {
        if text.is_some_and(|text| text.contains('\0')) {
            return Err(format!("{field} contains a NUL, which no argument can hold"));
        }
    }
    let mut files = Vec::new();
    let boot = [
        ("kernel", &spec.kernel, command_line::KERNEL_FD),
        ("initrd", &spec.initrd, command_line::INITRD_FD),
    ];
    for (what, path, number) in boot {
        let Some(path) = path else { continue };
        let path = PathBuf::from(path);
        open(what, &path, Access::Read)?;
        files.push(HandedFile { path, number, mode: FileMode::Reopen });
    }
    for (number, disk) in (command_line::DISK_FD..).zip(&spec.disks) {
        check_disk(disk)?;
        let mode = if disk.read_only { FileMode::Read } else { FileMode::ReadWrite };
        files.push(HandedFile { path: disk.path.clone().into(), number, mode });
    }
    Ok(files)
}

fn open(what: &str, path: &Path, access: Access) -> Result<File, Refusal> {
    files::open_data(path, access).map_err(|error| match error {
        OpenError::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("the {what} {} is not there", path.display())
        }
        OpenError::Io { path, source } => {
            format!("the {what} {} could not be opened: {source}", path.display())
        }
        OpenError::NoData(path) => {
            format!("the {what} {} is neither a file nor a block device", path.display())
        }
    })
}

fn check_disk(disk: &DiskSpec) -> Result<(), Refusal> {
    let access = if disk.read_only { Access::Read } else { Access::ReadWrite };
    let mut file = open("disk", Path::new(&disk.path), access)?;
    if disk.format == DiskFormat::Raw {
        return Ok(());
    }
    let mut header = [0; qcow2::HEADER];
    let complete = file.read_exact(&mut header);
    complete
        .map_err(|_| qcow2::Fault::NoQcow2)
        .and_then(|()| qcow2::check(&header))
        .map_err(|fault| format!("the disk {} {fault}", disk.path))
}

/// The part of a qcow2 image's header that decides whether the image names
/// other files of the host.
mod qcow2 {
    /// As much of the header as is looked at, in bytes.
    pub(super) const HEADER: usize = 80;
    const MAGIC: &[u8] = b"QFI\xfb";
    /// "The data lie in another file."
    const EXTERNAL_DATA: u64 = 1 << 2;

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    pub(super) enum Fault {
        #[error("is no qcow2 image; state its real format")]
        NoQcow2,
        #[error(
            "rests on a backing file, which is not opened; flatten it with: qemu-img convert -O qcow2"
        )]
        Backing,
        #[error(
            "keeps its data in another file, which is not opened; flatten it with: qemu-img convert -O qcow2"
        )]
        ExternalData,
    }

    pub(super) fn check(header: &[u8; HEADER]) -> Result<(), Fault> {
        let number = |at: usize, len: usize| {
            header[at..at + len].iter().fold(0u64, |sum, &b| sum << 8 | u64::from(b))
        };
        if !header.starts_with(MAGIC) || !(2..=3).contains(&number(4, 4)) {
            return Err(Fault::NoQcow2);
        }
        if number(8, 8) != 0 {
            return Err(Fault::Backing);
        }
        if number(4, 4) == 3 && number(72, 8) & EXTERNAL_DATA != 0 {
            return Err(Fault::ExternalData);
        }
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_image_that_names_another_file_is_refused() {
            let mut header = [0; HEADER];
            assert_eq!(check(&header), Err(Fault::NoQcow2));
            header[..4].copy_from_slice(MAGIC);
            header[7] = 3;
            assert_eq!(check(&header), Ok(()));
            header[79] = 4;
            assert_eq!(check(&header), Err(Fault::ExternalData));
            header[15] = 1;
            assert_eq!(check(&header), Err(Fault::Backing));
            header[7] = 4;
            assert_eq!(check(&header), Err(Fault::NoQcow2));
        }
    }
}

fn nic_of(id: Uuid, index: u8, nic: &NicSpec) -> Nic {
    let backend = match nic.network {
        Network::Isolated => NicBackend::User,
        Network::Passt => NicBackend::Stream,
    };
    Nic { backend, mac: nic.mac.clone().unwrap_or_else(|| mac_of(id, index)) }
}

/// A hardware address of the VM's own, the same for as long as it exists: the
/// random end of its id, marked as locally administered and as one station's.
fn mac_of(id: Uuid, index: u8) -> String {
    let mut bytes: [u8; 6] = id.as_bytes()[10..].try_into().expect("a UUID has 16 bytes");
    bytes[0] = bytes[0] & 0b1111_1100 | 0b0000_0010;
    bytes[5] = bytes[5].wrapping_add(index);
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn companions(spec: &VmSpec, users: &Users, host: &Host<'_>) -> Result<Vec<Companion>, Refusal> {
    (command_line::NIC_FD..)
        .zip(&spec.nics)
        .filter(|(_, nic)| nic.network == Network::Passt)
        .map(|(number, _)| {
            let passt = host.passt.ok_or(
                "a network interface wants passt, which is not installed; \
                 install the package passt, or use the network \"isolated\"",
            )?;
            Ok(Companion {
                program: passt.to_owned(),
                arguments: passt_arguments(number),
                user: users.companion.clone(),
                number,
            })
        })
        .collect()
}

/// Without `--no-map-gw` the guest would reach the host's loopback under the
/// address of its gateway. With `--fd` it ends when QEMU does.
fn passt_arguments(number: i32) -> Vec<String> {
    let words = [
        "--foreground",
        "--quiet",
        "--no-map-gw",
        "--tcp-ports",
        "none",
        "--udp-ports",
        "none",
        "--fd",
    ];
    words.into_iter().map(str::to_owned).chain([number.to_string()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_has_an_address_of_its_own() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdff);
        assert_eq!(mac_of(id, 0), "46:67:89:ab:cd:ff");
        assert_eq!(mac_of(id, 1), "46:67:89:ab:cd:00");
    }
}
