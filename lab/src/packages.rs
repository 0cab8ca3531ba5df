//! What the host needs, and how it gets it: Debian and Ubuntu packages for
//! whatever is missing. Separate because it is the only part of the lab that
//! changes the machine outside the checkout.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::GUEST_TARGET;
use crate::program::{find, is_static, output, privileged, run};
use crate::{Say, Tree};

/// Something that must be there, and the package that brings it.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// How it is seen to be there.
    pub evidence: Evidence,
    /// The package of Debian and Ubuntu.
    pub package: &'static str,
    /// What it is for, as a person reads it.
    pub purpose: &'static str,
}

/// How something is seen to be there. Looked at instead of the package
/// database, because what is there may come from elsewhere.
#[derive(Clone, Copy, Debug)]
pub enum Evidence {
    /// A program in `PATH`.
    Program(&'static str),
    /// A program in `PATH` that needs no libraries.
    StaticProgram(&'static str),
    /// A file.
    File(&'static str),
}

impl Evidence {
    fn is_there(self) -> bool {
        match self {
            Self::Program(name) => find(name).is_some(),
            Self::StaticProgram(name) => {
                find(name).is_some_and(|program| is_static(&program).unwrap_or(false))
            }
            Self::File(path) => Path::new(path).exists(),
        }
    }
}

/// What building and booting a guest takes. `qemu-utils` is not among it: raw
/// disks need no `qemu-img`, and versions of it conflict with other versions
/// of QEMU.
pub const TO_BOOT_GUESTS: &[Need] = &[
    Need {
        evidence: Evidence::Program("qemu-system-x86_64"),
        package: "qemu-system-x86",
        purpose: "runs the virtual machines",
    },
    Need {
        evidence: Evidence::StaticProgram("busybox"),
        package: "busybox-static",
        purpose: "is the guests' userland",
    },
    Need {
        evidence: Evidence::Program("passt"),
        package: "passt",
        purpose: "connects guests to the network without the host's loopback",
    },
    Need {
        evidence: Evidence::Program("gpgv"),
        package: "gpgv",
        purpose: "verifies the guests' kernel",
    },
    Need {
        evidence: Evidence::File(crate::kernel::KEYRING),
        package: "debian-archive-keyring",
        purpose: "holds the keys that sign the guests' kernel",
    },
];

/// What making the Debian image takes.
pub const TO_MAKE_DEBIAN: &[Need] = &[
    Need {
        evidence: Evidence::Program("mmdebstrap"),
        package: "mmdebstrap",
        purpose: "makes the Debian that the daemon's units are tested in",
    },
    Need {
        evidence: Evidence::Program("mkfs.ext4"),
        package: "e2fsprogs",
        purpose: "puts that Debian onto a disk",
    },
    Need {
        evidence: Evidence::Program("strip"),
        package: "binutils",
        purpose: "takes from the programs what only debuggers read",
    },
];

/// What wounding a host takes, for the tests of what the daemon does then.
pub const TO_WOUND_THE_HOST: &[Need] = &[
    Need {
        evidence: Evidence::Program("mkfs.ext4"),
        package: "e2fsprogs",
        purpose: "makes the file systems that fail",
    },
    Need {
        evidence: Evidence::File(FAKETIME),
        package: "libfaketime",
        purpose: "sets the daemon's clock, and nobody else's",
    },
];

/// What gives a program another clock when it is preloaded.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// What is measured beside our programs.
pub const TO_MEASURE: &[Need] = &[
    Need {
        evidence: Evidence::Program("qemu-ga"),
        package: "qemu-guest-agent",
        purpose: "is the agent beside which ours is measured",
    },
    Need {
        evidence: Evidence::Program("prometheus-node-exporter"),
        package: "prometheus-node-exporter",
        purpose: "is the exporter beside which our agent is measured",
    },
    Need {
        evidence: Evidence::Program("libvirtd"),
        package: "libvirt-daemon-system",
        purpose: "is the daemon beside which ours is measured",
    },
    Need {
        evidence: Evidence::Program("virsh"),
        package: "libvirt-clients",
        purpose: "speaks to that daemon",
    },
    Need {
        evidence: Evidence::Program("dbus-daemon"),
        package: "dbus-daemon",
        purpose: "is what that daemon does not start without",
    },
];

/// Where a system tells what it is: os-release(5).
const OS_RELEASE: &str = "/etc/os-release";

/// Installs what of `needs` is missing, and says so.
///
/// # Errors
/// When something is missing and this is neither Debian nor Ubuntu (the error
/// names what to install), or when apt fails.
pub fn ensure(needs: &[Need], say: Say<'_>) -> Result<()> {
    let missing: Vec<Need> =
        needs.iter().copied().filter(|need| !need.evidence.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let os_release = fs::read_to_string(OS_RELEASE).unwrap_or_default();
    let packages: Vec<&str> =
        missing.iter().map(|need| need.package).collect::<BTreeSet<_>>().into_iter().collect();
    if !is_debian_like(&os_release) {
        let wanted: Vec<String> =
            missing.iter().map(|need| format!("{} ({})", need.package, need.purpose)).collect();
        bail!(
            "this system is neither Debian nor Ubuntu; install what these packages of Debian \
             hold, then run this again: {}",
            wanted.join(", ")
        );
    }
    for need in &missing {
        say(&format!("installing {}: {}", need.package, need.purpose));
    }
    install(&packages)?;
    for need in &missing {
        if !need.evidence.is_there() {
            bail!("{} is installed, and still {:?} is not there", need.package, need.evidence);
        }
    }
    Ok(())
}

/// Unpacks a package into `folder` and installs nothing: for a tool whose package
/// would start a service.
///
/// # Errors
/// When apt does not have it, or it cannot be unpacked.
pub fn unpack(package: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if !lists_are_there() {
        output(apt().args(["update", "-qq"]))?;
    }
    output(Command::new("apt-get").args(["download", "-qq", package]).current_dir(folder))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(folder))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Adds the target that guest programs are compiled for to the checkout's
/// toolchain, where rustup manages it.
///
/// # Errors
/// When the target is missing and rustup cannot add it.
pub fn ensure_guest_target(tree: &Tree, say: Say<'_>) -> Result<()> {
    let sysroot =
        output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(tree.root()))?;
    let sysroot = String::from_utf8(sysroot).context("the toolchain's path is not UTF-8")?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(GUEST_TARGET).exists() {
        return Ok(());
    }
    say(&format!("adding the Rust target {GUEST_TARGET}: the agent is a static program"));
    run(Command::new("rustup").args(["target", "add", GUEST_TARGET]).current_dir(tree.root()))
        .with_context(|| format!("without rustup, install Rust's target {GUEST_TARGET} yourself"))
}

/// apt's own words are only shown when it fails: they fill a screen.
fn install(packages: &[&str]) -> Result<()> {
    if !lists_are_there() {
        output(apt().args(["update", "-qq"]))?;
    }
    let mut install = apt();
    install.args(["install", "-qq", "-y", "--no-install-recommends"]).args(packages);
    if output(&mut install).is_ok() {
        return Ok(());
    }
    // The lists may be older than what the archive still holds.
    output(apt().args(["update", "-qq"]))?;
    output(&mut install).map(drop).context("install these packages by hand, then run this again")
}

/// `apt-get` as root, without questions.
fn apt() -> Command {
    let quiet = ("DEBIAN_FRONTEND".into(), "noninteractive".into());
    let mut command = privileged("apt-get", &[quiet]);
    command.args(["-o", "Dpkg::Use-Pty=0"]);
    command
}

/// Whether apt has any package list: a fresh image has none.
fn lists_are_there() -> bool {
    let Ok(lists) = fs::read_dir("/var/lib/apt/lists") else { return false };
    lists.flatten().any(|list| list.file_name().to_string_lossy().contains("_Packages"))
}

/// Whether os-release(5) tells of Debian, Ubuntu or what is made from them.
fn is_debian_like(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches('"').split_whitespace())
        .any(|word| matches!(word, "debian" | "ubuntu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_debian_and_its_children() {
        assert!(is_debian_like("NAME=x\nID=debian\n"));
        assert!(is_debian_like("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_debian_like("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_like("ID=fedora\nNAME=debian\n"));
        assert!(!is_debian_like(""));
    }
}
