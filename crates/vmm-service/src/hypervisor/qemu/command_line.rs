//! QEMU's command line: from a description to arguments. Pure.
//!
//! QEMU's own syntax joins options with commas, and a comma in a value begins
//! another option. So nothing is spliced here: structured options are JSON, the
//! others are made of our own constants and of numbers, and a text that a user
//! wrote is either an argument of its own or, in `-name`, has its commas
//! doubled, which is QEMU's escape.

use serde_json::{Value, json};
use uuid::Uuid;
use vmm_api::vm::DiskFormat;

use crate::sys::descriptor::{FIRST_AGREED, path_of};

/// QEMU's number for the monitor's listening socket.
pub const QMP_FD: i32 = FIRST_AGREED;
/// QEMU's number for the agent port's listening socket.
pub const AGENT_FD: i32 = FIRST_AGREED + 1;
/// QEMU's number for the console's listening socket.
pub const CONSOLE_FD: i32 = FIRST_AGREED + 2;
/// QEMU's number for the kernel image.
pub const KERNEL_FD: i32 = FIRST_AGREED + 3;
/// QEMU's number for the initial RAM file system.
pub const INITRD_FD: i32 = FIRST_AGREED + 4;
/// QEMU's number for the first disk; the others follow.
pub const DISK_FD: i32 = FIRST_AGREED + 16;
/// QEMU's number for the first network interface; the others follow.
pub const NIC_FD: i32 = FIRST_AGREED + 48;

/// How many disks fit between the fixed devices and the root ports.
pub const MOST_DISKS: usize = 12;
/// How many network interfaces fit behind the root ports.
pub const MOST_NICS: usize = 12;

/// The agent's port, by the name that the guest looks for.
pub const AGENT_PORT: &str = "org.infinibay.agent";
/// The id of the agent port's device, as VSERPORT_CHANGE names it.
pub const AGENT_DEVICE: &str = "agent-port";
/// The id of the agent port's character device.
pub const AGENT_CHARDEV: &str = "agent";

/// Slots of the root bus. They are fixed, so that a device that comes or goes
/// moves no other: a guest names its interfaces after them.
const SERIAL_SLOT: u8 = 0x2;
const RNG_SLOT: u8 = 0x3;
const FIRST_DISK_SLOT: u8 = 0x4;
const ROOT_PORT_SLOT: u8 = 0x10;
const FIRST_NIC_SLOT: u8 = 0x11;

/// q35 plugs nothing into its root bus while it runs, so empty root ports must
/// be there from the start: eight, the functions of one slot.
const SPARE_ROOT_PORTS: u8 = 8;

/// Everything that QEMU offers to shut off. It needs none of it: its user is
/// dropped before it starts, and it starts no helper.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A reset stays in the process, a power-off ends it. A panicked kernel is
/// reported and left alone: its own `panic=` and its crash dump decide.
const ACTIONS: &str = "reboot=reset,shutdown=poweroff,panic=none";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// A translator.
    Tcg,
}

impl Accel {
    /// QEMU's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A versioned q35 machine type, such as `pc-q35-7.2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineType(Vec<u16>);

impl std::str::FromStr for MachineType {
    type Err = InvalidMachineType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMachineType(text.chars().take(64).collect());
        let version = text.strip_prefix("pc-q35-").ok_or_else(invalid)?;
        let numbers: Result<Vec<u16>, _> = version
            .split('.')
            .map(|number| match number.bytes().all(|byte| byte.is_ascii_digit()) {
                true => number.parse().map_err(|_| invalid()),
                false => Err(invalid()),
            })
            .collect();
        let numbers = numbers?;
        if !(2..=3).contains(&numbers.len()) {
            return Err(invalid());
        }
        Ok(Self(numbers))
    }
}

impl std::fmt::Display for MachineType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "pc-q35-{}", numbers.join("."))
    }
}

/// A text that is no versioned q35 machine type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no versioned machine type such as pc-q35-7.2")]
pub struct InvalidMachineType(String);

/// A machine, as far as QEMU must know it.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Identity, the guest's SMBIOS UUID too.
    pub id: Uuid,
    /// Names this start of the machine; the monitor's id, so that the process
    /// can be told from any other. Hexadecimal.
    pub token: String,
    /// The VM's name, shown in process lists.
    pub name: String,
    /// Which machine.
    pub machine_type: MachineType,
    /// What runs it.
    pub accel: Accel,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whether [`KERNEL_FD`] is a kernel image.
    pub kernel: bool,
    /// Whether [`INITRD_FD`] is an initial RAM file system.
    pub initrd: bool,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// Disks, [`DISK_FD`] and following.
    pub disks: Vec<Disk>,
    /// Network interfaces, [`NIC_FD`] and following.
    pub nics: Vec<Nic>,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// How the image is laid out.
    pub format: DiskFormat,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// A network interface.
#[derive(Clone, Debug)]
pub struct Nic {
    /// Where its packets go.
    pub backend: NicBackend,
    /// The guest's hardware address.
    pub mac: String,
}

/// Where a network interface's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicBackend {
    /// To QEMU's own network stack, which lives in an empty namespace.
    User,
    /// Into the descriptor of the interface.
    Stream,
}

/// The text that identifies the process among its arguments.
pub fn identity(token: &str) -> String {
    format!("run-{token}")
}

/// QEMU's arguments, without the program's own name.
pub fn build(hardware: &Hardware) -> Vec<String> {
    let mut line = CommandLine(Vec::new());
    line.word("-nodefaults").word("-no-user-config").word("-S");
    line.option("-display", "none".into());
    // SeaBIOS writes to the serial console when there are no graphics. Guests
    // have better clocks than the HPET, whose interrupts cost them and the host
    // time even when idle, and which takes the older timer's place while they
    // look for that one.
    line.option(
        "-machine",
        format!("{},accel={},graphics=off,hpet=off", hardware.machine_type, hardware.accel.word()),
    );
    line.option("-cpu", "max".into());
    line.option("-sandbox", SANDBOX.into());
    line.option("-name", format!("guest={},debug-threads=on", doubled_commas(&hardware.name)));
    line.option("-uuid", hardware.id.to_string());
    line.option("-m", format!("{}M", hardware.memory_mib));
    line.option("-smp", hardware.vcpus.to_string());
    // Windows counts this clock's ticks: those that a busy host could not
    // deliver follow later. (The older timer's are late by themselves.)
    line.option("-rtc", "base=utc,driftfix=slew".into());
    line.option("-action", ACTIONS.into());
    line.option("-msg", "timestamp=on".into());
    monitor_and_ports(&mut line, &identity(&hardware.token));
    boot(&mut line, hardware);
    for (index, disk) in (0u8..).zip(&hardware.disks) {
        add_disk(&mut line, index, disk);
    }
    for (index, nic) in (0u8..).zip(&hardware.nics) {
        add_nic(&mut line, index, nic);
    }
    for function in 0..SPARE_ROOT_PORTS {
        line.json(
            "-device",
            &json!({
                "driver": "pcie-root-port", "id": format!("spare{function}"), "bus": "pcie.0",
                "addr": format!("{ROOT_PORT_SLOT:x}.{function}"), "multifunction": true,
                "chassis": function + 1,
            }),
        );
    }
    line.0
}

fn monitor_and_ports(line: &mut CommandLine, identity: &str) {
    line.listener(identity, QMP_FD);
    line.option("-mon", format!("chardev={identity},mode=control"));
    line.listener("console", CONSOLE_FD);
    line.json("-device", &json!({ "driver": "isa-serial", "id": "com1", "chardev": "console" }));
    line.json(
        "-device",
        &on_root_bus(json!({ "driver": "virtio-serial-pci", "id": "serial" }), SERIAL_SLOT),
    );
    line.listener(AGENT_CHARDEV, AGENT_FD);
    line.json(
        "-device",
        &json!({
            "driver": "virtserialport", "id": AGENT_DEVICE, "bus": "serial.0", "nr": 1,
            "chardev": AGENT_CHARDEV, "name": AGENT_PORT,
        }),
    );
    line.json("-device", &json!({ "driver": "pvpanic", "id": "panic" }));
    line.json("-object", &json!({ "qom-type": "rng-builtin", "id": "entropy" }));
    line.json(
        "-device",
        &on_root_bus(
            json!({ "driver": "virtio-rng-pci", "id": "rng", "rng": "entropy" }),
            RNG_SLOT,
        ),
    );
}

fn boot(line: &mut CommandLine, hardware: &Hardware) {
    if hardware.kernel {
        line.option("-kernel", path_of(KERNEL_FD));
    }
    if hardware.initrd {
        line.option("-initrd", path_of(INITRD_FD));
    }
    if let Some(cmdline) = &hardware.cmdline {
        line.option("-append", cmdline.clone());
    }
}

fn add_disk(line: &mut CommandLine, index: u8, disk: &Disk) {
    let set = u32::from(index) + 1;
    let (file, node) = (format!("disk{index}-file"), format!("disk{index}"));
    line.option("-add-fd", format!("fd={},set={set}", DISK_FD + i32::from(index)));
    line.json(
        "-blockdev",
        &json!({
            "driver": "file", "node-name": file, "filename": format!("/dev/fdset/{set}"),
            "read-only": disk.read_only, "auto-read-only": false, "locking": "on", "discard": "unmap",
        }),
    );
    let mut format =
        json!({ "node-name": node, "file": file, "read-only": disk.read_only, "discard": "unmap" });
    match disk.format {
        DiskFormat::Raw => format["driver"] = "raw".into(),
        DiskFormat::Qcow2 => {
            format["driver"] = "qcow2".into();
            // An image may name any file of the host as the one below it.
            format["backing"] = Value::Null;
        }
    }
    line.json("-blockdev", &format);
    line.json(
        "-device",
        &on_root_bus(
            json!({ "driver": "virtio-blk-pci", "id": format!("vd{index}"), "drive": node, "bootindex": set }),
            FIRST_DISK_SLOT + index,
        ),
    );
}

fn add_nic(line: &mut CommandLine, index: u8, nic: &Nic) {
    let id = format!("net{index}");
    let backend = match nic.backend {
        NicBackend::User => json!({ "type": "user", "id": id }),
        NicBackend::Stream => json!({
            "type": "stream", "id": id, "server": false,
            "addr": { "type": "fd", "str": (NIC_FD + i32::from(index)).to_string() },
        }),
    };
    line.json("-netdev", &backend);
    // Without its boot ROM, which another package holds: nothing boots from it.
    line.json(
        "-device",
        &on_root_bus(
            json!({
                "driver": "virtio-net-pci", "id": format!("nic{index}"), "netdev": id,
                "mac": nic.mac, "romfile": "",
            }),
            FIRST_NIC_SLOT + index,
        ),
    );
}

fn on_root_bus(mut device: Value, slot: u8) -> Value {
    device["bus"] = "pcie.0".into();
    device["addr"] = format!("{slot:x}").into();
    device
}

fn doubled_commas(text: &str) -> String {
    text.replace(',', ",,")
}

struct CommandLine(Vec<String>);

impl CommandLine {
    fn word(&mut self, word: &'static str) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn option(&mut self, name: &'static str, value: String) {
        self.0.extend([name.into(), value]);
    }

    fn json(&mut self, name: &'static str, value: &Value) {
        self.option(name, value.to_string());
    }

    fn listener(&mut self, id: &str, fd: i32) {
        self.option("-chardev", format!("socket,id={id},fd={fd},server=on,wait=off"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hardware(name: &str, cmdline: &str, disks: usize, nics: usize) -> Hardware {
        Hardware {
            id: Uuid::nil(),
            token: "ab".into(),
            name: name.into(),
            machine_type: "pc-q35-7.2".parse().unwrap(),
            accel: Accel::Tcg,
            vcpus: 1,
            memory_mib: 64,
            kernel: true,
            initrd: false,
            cmdline: Some(cmdline.into()),
            disks: vec![Disk { format: DiskFormat::Qcow2, read_only: false }; disks],
            nics: vec![Nic { backend: NicBackend::User, mac: "02:00:00:00:00:01".into() }; nics],
        }
    }

    fn value_of<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
        line.iter()
            .zip(&line[1..])
            .filter(|(name, _)| *name == option)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Reads QEMU's comma syntax: a doubled comma is a comma, a single one ends
    /// the value.
    fn first_value(options: &str) -> String {
        let mut value = String::new();
        let mut rest = options.chars().peekable();
        while let Some(c) = rest.next() {
            if c == ',' && rest.next_if_eq(&',').is_none() {
                break;
            }
            value.push(c);
        }
        value
    }

    proptest! {
        #[test]
        fn a_users_text_never_becomes_an_option(name in "[^\\x00]{0,40}", cmdline in "[^\\x00]{0,80}") {
            let plain = build(&hardware("n", "c", 2, 2));
            let line = build(&hardware(&name, &cmdline, 2, 2));
            prop_assert_eq!(line.len(), plain.len());
            for (at, (ours, theirs)) in plain.iter().zip(&line).enumerate() {
                if at > 0 && (plain[at - 1] == "-name" || plain[at - 1] == "-append") {
                    continue;
                }
                prop_assert_eq!(ours, theirs);
            }
            let shown = value_of(&line, "-name")[0];
            prop_assert_eq!(first_value(shown), format!("guest={}", name));
            prop_assert!(shown.ends_with(",debug-threads=on"));
            prop_assert_eq!(value_of(&line, "-append"), [cmdline.as_str()]);
        }

        #[test]
        fn no_two_devices_share_an_id_or_a_place(disks in 0..=MOST_DISKS, nics in 0..=MOST_NICS) {
            let line = build(&hardware("n", "c", disks, nics));
            let devices: Vec<Value> =
                value_of(&line, "-device").iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            for field in ["id", "addr"] {
                let mut all: Vec<_> = devices.iter().filter_map(|device| device[field].as_str()).collect();
                let count = all.len();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), count, "{}", field);
            }
        }

        #[test]
        fn a_machine_type_is_written_as_it_was_read(text in "pc-q35-[0-9]{1,2}\\.[0-9]{1,2}(\\.[0-9])?") {
            // Leading zeros are the one thing that is not kept.
            if let Ok(parsed) = text.parse::<MachineType>() {
                prop_assert_eq!(parsed.to_string().parse::<MachineType>().unwrap(), parsed);
            }
        }
    }

    /// A display that listened on every address without a password, and one with
    /// its password among the arguments, are known from other systems.
    #[test]
    fn a_machine_has_no_display_and_listens_only_on_what_it_is_handed() {
        let line = build(&hardware("n", "c", 1, 1));
        assert_eq!(value_of(&line, "-display"), ["none"]);
        for option in ["-vnc", "-spice", "-monitor", "-gdb", "-s", "-incoming", "-netdev=tap"] {
            assert!(!line.iter().any(|word| word == option), "{option}");
        }
        for server in line.iter().filter(|word| word.contains("server=on")) {
            assert!(server.starts_with("socket,id=") && server.contains(",fd="), "{server}");
        }
        let secrets = line.iter().filter(|word| word.contains("password"));
        assert_eq!(secrets.count(), 0);
    }

    #[test]
    fn machine_types_compare_as_versions() {
        let parse = |text: &str| text.parse::<MachineType>().unwrap();
        assert!(parse("pc-q35-10.0") > parse("pc-q35-9.2"));
        assert!(parse("pc-q35-4.0.1") > parse("pc-q35-4.0"));
        for wrong in
            ["q35", "pc-q35-", "pc-q35-7", "pc-q35-7.2,accel=kvm", "pc-i440fx-7.2", "pc-q35-+7.2"]
        {
            assert!(wrong.parse::<MachineType>().is_err(), "{wrong}");
        }
    }
}
