//! From what an operator sent to a specification that can be trusted, or to the
//! list of everything that is wrong with it.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use uuid::Uuid;
use vmm_api::problem::FieldError;
use vmm_api::vm::{DiskFormat, DiskSpec, Network, NicSpec, VmSpec};

use super::field::{Fields, path};

/// The longest name, as in a DNS label.
const LONGEST_NAME: usize = 63;

/// QEMU's q35 machine takes no more without an interrupt remapper.
const MOST_VCPUS: u64 = 255;

/// Less holds no kernel.
const LEAST_MEMORY_MIB: u64 = 16;

/// Linux cuts a longer command line off (`COMMAND_LINE_SIZE` of x86).
const LONGEST_CMDLINE: usize = 2047;

/// As many as the machine has spare PCIe root ports, with room for what is
/// plugged in later.
const MOST_DISKS: usize = 16;

/// See [`MOST_DISKS`].
const MOST_NICS: usize = 8;

/// Labels are for filters, not for documents.
const MOST_LABELS: usize = 32;

/// As Kubernetes has it, whose tools write such keys.
const LONGEST_LABEL_KEY: usize = 63;

/// A sentence.
const LONGEST_LABEL_VALUE: usize = 255;

/// What the host can give to one VM.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// All of its memory.
    pub memory_mib: u64,
    /// Its processors that are online.
    pub processors: u32,
}

/// Reads a specification. Blocks: the files that it names are looked at.
///
/// # Errors
///
/// Every wrong field.
pub fn parse(raw: &Value, host: &Host) -> Result<VmSpec, Vec<FieldError>> {
    let mut errors = Vec::new();
    let Value::Object(object) = raw else {
        return Err(vec![FieldError {
            field: String::new(),
            detail: "the body must be a JSON object".to_owned(),
        }]);
    };
    let mut fields = Fields::new("", object, &mut errors);
    let spec = VmSpec {
        name: name(&mut fields),
        vcpus: vcpus(&mut fields, host),
        memory_mib: fields.integer("memory_mib", LEAST_MEMORY_MIB..=host.memory_mib, || {
            format!("this host has {} MiB", host.memory_mib)
        }),
        kernel: path(&mut fields, "kernel", "a kernel image"),
        initrd: path(&mut fields, "initrd", "an initial RAM file system"),
        cmdline: cmdline(&mut fields),
        disks: disks(&mut fields),
        nics: nics(&mut fields),
        labels: labels(&mut fields),
        autostart: fields.flag("autostart"),
    };
    fields.refuse_the_rest();
    if errors.is_empty() { Ok(spec) } else { Err(errors) }
}

fn name(fields: &mut Fields<'_>) -> String {
    let Some(name) = fields.required_text("name") else { return String::new() };
    if let Err(why) = check_name(&name) {
        fields.wrong("name", why);
    }
    name
}

fn check_name(name: &str) -> Result<(), String> {
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c));
    if !first || !rest || name.len() > LONGEST_NAME {
        return Err(format!(
            "{} is no name: 1 to {LONGEST_NAME} of a-z, 0-9, '.' and '-', beginning with a letter \
             or digit",
            shown(name)
        ));
    }
    if name.contains("..") {
        return Err(format!("{name:?} has two dots in a row"));
    }
    if Uuid::try_parse(name).is_ok() {
        return Err(format!("{name:?} has the form of a UUID, by which VMs are found too"));
    }
    Ok(())
}

fn vcpus(fields: &mut Fields<'_>, host: &Host) -> u32 {
    let most = u64::from(host.processors).min(MOST_VCPUS);
    let vcpus = fields.integer("vcpus", 1..=most, || {
        format!(
            "this host has {} processors, and no VM has more than {MOST_VCPUS}",
            host.processors
        )
    });
    u32::try_from(vcpus).expect("it was checked against a number of processors")
}

fn cmdline(fields: &mut Fields<'_>) -> Option<String> {
    let cmdline = fields.text("cmdline")?;
    if cmdline.len() > LONGEST_CMDLINE {
        fields.wrong("cmdline", format!("it is longer than {LONGEST_CMDLINE} bytes"));
    }
    if cmdline.contains(char::is_control) {
        fields.wrong("cmdline", "it holds a control character, such as a newline".to_owned());
    }
    Some(cmdline)
}

fn disks(fields: &mut Fields<'_>) -> Vec<DiskSpec> {
    let mut writable = HashSet::new();
    let mut all = HashSet::new();
    fields.objects("disks", MOST_DISKS, |disk| {
        let path = path(disk, "path", "a disk image");
        if path.is_none() && !disk.has("path") {
            disk.wrong("path", "it is missing: the image's absolute path".to_owned());
        }
        let path = path.unwrap_or_default();
        let format = match disk.word("format", &["raw", "qcow2"]) {
            Some("qcow2") => DiskFormat::Qcow2,
            _ => DiskFormat::Raw,
        };
        let read_only = disk.flag("read_only");
        // Two writers, or a writer beside a reader, destroy a file system.
        if writable.contains(&path) || (!read_only && all.contains(&path)) {
            disk.wrong("path", "another disk of this VM is the same image".to_owned());
        }
        if !read_only && !path.is_empty() {
            writable.insert(path.clone());
        }
        if !path.is_empty() {
            all.insert(path.clone());
        }
        DiskSpec { path, format, read_only }
    })
}

fn nics(fields: &mut Fields<'_>) -> Vec<NicSpec> {
    let mut macs = HashSet::new();
    fields.objects("nics", MOST_NICS, |nic| {
        let network = match nic.word("network", &["isolated", "passt"]) {
            Some("passt") => Network::Passt,
            _ => Network::Isolated,
        };
        let mac = nic.text("mac").map(|mac| mac.to_ascii_lowercase());
        if let Some(mac) = &mac {
            if let Err(why) = check_mac(mac) {
                nic.wrong("mac", why.to_owned());
            } else if !macs.insert(mac.clone()) {
                nic.wrong("mac", "another NIC of this VM has the same".to_owned());
            }
        }
        NicSpec { network, mac }
    })
}

fn check_mac(mac: &str) -> Result<(), &'static str> {
    let pair = |pair: &str| {
        (pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u8::from_str_radix(pair, 16).ok())
            .flatten()
    };
    let bytes: Option<Vec<u8>> = mac.split(':').map(pair).collect();
    match bytes.as_deref() {
        Some([0, 0, 0, 0, 0, 0]) => Err("it is all zeros"),
        Some([first, _, _, _, _, _]) if first & 1 == 1 => {
            Err("it is a multicast address: its first byte must be even")
        }
        Some([_, _, _, _, _, _]) => Ok(()),
        _ => Err("it is no hardware address: six pairs of hexadecimal digits, as in \
                  52:54:00:12:34:56"),
    }
}

fn labels(fields: &mut Fields<'_>) -> BTreeMap<String, String> {
    let Some(object) = fields.object("labels") else { return BTreeMap::new() };
    if object.len() > MOST_LABELS {
        fields.wrong("labels", format!("there are more than {MOST_LABELS}"));
        return BTreeMap::new();
    }
    let mut labels = BTreeMap::new();
    for (key, value) in &object {
        match label(key, value) {
            Ok(value) => {
                labels.insert(key.clone(), value);
            }
            Err(why) => fields.wrong(&format!("labels.{}", shown(key)), why),
        }
    }
    labels
}

fn label(key: &str, value: &Value) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    if key.is_empty() || key.len() > LONGEST_LABEL_KEY || !key.chars().all(plain) {
        return Err(format!(
            "the key must be 1 to {LONGEST_LABEL_KEY} of a-z, A-Z, 0-9, '.', '_', '/' and '-'"
        ));
    }
    let value = value.as_str().ok_or("the value must be a string")?;
    if value.len() > LONGEST_LABEL_VALUE || value.contains(char::is_control) {
        return Err(format!(
            "the value must be at most {LONGEST_LABEL_VALUE} bytes without control characters"
        ));
    }
    Ok(value.to_owned())
}

/// A text of the input, escaped and cut, so that an error shows it safely.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: Host = Host { memory_mib: 4096, processors: 4 };

    fn wrong_fields(raw: &Value) -> Vec<String> {
        parse(raw, &HOST).unwrap_err().into_iter().map(|error| error.field).collect()
    }

    fn with(key: &str, value: Value) -> Value {
        let mut raw = json!({"name": "web-1", "vcpus": 1, "memory_mib": 128});
        raw[key] = value;
        raw
    }

    #[test]
    fn a_whole_specification_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let file = file.to_str().unwrap();
        let raw = json!({
            "name": "web-1", "vcpus": 4, "memory_mib": 4096,
            "kernel": file, "initrd": file, "cmdline": "console=ttyS0",
            "disks": [{"path": file, "format": "qcow2"}],
            "nics": [{"network": "passt", "mac": "52:54:00:AB:CD:EF"}, {"network": "isolated"}],
            "labels": {"infinibay.org/tier": "front end"},
            "autostart": true,
        });
        let spec = parse(&raw, &HOST).unwrap();
        assert_eq!(spec.nics[0].mac.as_deref(), Some("52:54:00:ab:cd:ef"));
        assert_eq!(spec.disks[0].format, DiskFormat::Qcow2);
        assert_eq!(spec.labels["infinibay.org/tier"], "front end");
        assert!(spec.autostart);
        // What is accepted reads back through the contract's own types.
        let text = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<VmSpec>(text).unwrap(), spec);
    }

    #[test]
    fn names_that_mean_something_elsewhere_are_refused() {
        for name in [
            "../etc",
            "a..b",
            "a,b",
            "a\nb",
            "",
            "-a",
            ".a",
            "A",
            "ä",
            "a b",
            "a/b",
            "a=b",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "f81d4fae7dec11d0a76500a0c91e6bf6",
            &"a".repeat(64),
        ] {
            assert_eq!(wrong_fields(&with("name", json!(name))), ["name"], "{name:?}");
        }
        for name in ["a", "0", "web-1.example", &"a".repeat(63)] {
            assert!(parse(&with("name", json!(name)), &HOST).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn each_wrong_value_is_named() {
        for (key, value, field) in [
            ("memory_mib", json!(4097), "memory_mib"),
            ("memory_mib", json!(0), "memory_mib"),
            ("memory_mib", json!(-1), "memory_mib"),
            ("memory_mib", json!("128"), "memory_mib"),
            ("memory_mib", json!(1.5), "memory_mib"),
            ("memory_mib", json!(u64::MAX), "memory_mib"),
            ("vcpus", json!(0), "vcpus"),
            ("vcpus", json!(5), "vcpus"),
            ("kernel", json!("/nowhere/vmlinuz"), "kernel"),
            ("kernel", json!("boot/vmlinuz"), "kernel"),
            ("kernel", json!("/boot/\nvmlinuz"), "kernel"),
            ("kernel", json!("/boot/\u{0}"), "kernel"),
            ("kernel", json!("/boot/../etc/passwd"), "kernel"),
            ("kernel", json!("/"), "kernel"),
            ("kernel", json!(7), "kernel"),
            ("initrd", json!("/nowhere/initrd"), "initrd"),
            ("cmdline", json!("a\nb"), "cmdline"),
            ("cmdline", json!("x".repeat(2048)), "cmdline"),
            ("disks", json!({}), "disks"),
            ("disks", json!([1]), "disks[0]"),
            ("nics", json!([{"network": "bridge"}]), "nics[0].network"),
            ("nics", json!([{}]), "nics[0].network"),
            ("nics", json!([{"network": "passt", "mac": "01:00:5e:00:00:01"}]), "nics[0].mac"),
            ("nics", json!([{"network": "passt", "mac": "52:54:00"}]), "nics[0].mac"),
            ("nics", json!([{"network": "passt", "mac": "+2:54:00:12:34:56"}]), "nics[0].mac"),
            ("labels", json!({"a b": "x"}), "labels.\"a b\""),
            ("labels", json!({"a": 1}), "labels.\"a\""),
            ("autostart", json!("yes"), "autostart"),
            ("colour", json!("red"), "colour"),
        ] {
            assert_eq!(wrong_fields(&with(key, value.clone())), [field], "{key}: {value}");
        }
        assert_eq!(wrong_fields(&json!([])), [""]);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let raw = json!({
            "name": "a,b", "vcpus": "two", "kernel": "relative",
            "disks": [{"format": "vmdk", "size": 3}],
            "nics": [
                {"network": "passt", "mac": "52:54:00:12:34:56"},
                {"network": "passt", "mac": "52:54:00:12:34:56"},
            ],
            "colour": "red",
        });
        assert_eq!(
            wrong_fields(&raw),
            [
                "name",
                "vcpus",
                "memory_mib",
                "kernel",
                "disks[0].path",
                "disks[0].format",
                "disks[0].size",
                "nics[1].mac",
                "colour",
            ]
        );
    }

    #[test]
    fn one_image_is_not_two_disks_unless_both_only_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::write(&file, "x").unwrap();
        let disk = |read_only| json!({"path": file, "format": "raw", "read_only": read_only});
        assert!(parse(&with("disks", json!([disk(true), disk(true)])), &HOST).is_ok());
        for pair in [[false, false], [true, false], [false, true]] {
            let raw = with("disks", json!([disk(pair[0]), disk(pair[1])]));
            assert_eq!(wrong_fields(&raw), ["disks[1].path"]);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_is_accepted_that_could_leave_its_folder(name in "\\PC{0,70}") {
            if check_name(&name).is_ok() {
                proptest::prop_assert!(!name.contains(['/', ',', '\n', '\0', ' ', '=']));
                proptest::prop_assert!(!name.starts_with('.') && !name.contains(".."));
            }
        }
    }
}
