//! The image: Debian 12 by mmdebstrap, whose packages apt verifies against the
//! keyring that signs the guests' kernel too, in a file system that `mkfs.ext4`
//! fills without mounting anything.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::kernel::KEYRING;
use crate::program::{output, privileged};
use crate::{Say, Tree};

/// What lies in it beyond what every Debian has: systemd and its companions,
/// what runs a VM, and what executes the lab's commands. No kernel: the lab
/// boots its own.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,iproute2,procps,e2fsprogs,\
    qemu-system-x86,passt,busybox-static,qemu-guest-agent";
/// Where the packages come from; those of the kernel come from the same suites.
const SOURCES: [&str; 3] = [
    "http://deb.debian.org/debian bookworm main",
    "http://deb.debian.org/debian bookworm-updates main",
    "http://deb.debian.org/debian-security bookworm-security main",
];
/// What no test reads, a third of the size.
const LEFT_OUT: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
/// Changes the new system; mmdebstrap runs it.
const CUSTOMIZE: &str = include_str!("../../debian/customize");
/// The disk's size: the system takes 300 MiB, and room costs nothing in a file
/// with holes.
const SIZE: u64 = 4 << 30;
/// Counted up when the way it is made changes, and not what goes in.
const RECIPE: u32 = 1;
/// The image within its folder.
const IMAGE: &str = "disk.raw";

/// The cached image, or a new one. Nobody may write to it: see [`disk`].
///
/// # Errors
/// When nothing is cached and the archive cannot be reached or verified, or
/// [`crate::packages::TO_MAKE_DEBIAN`] is not installed.
pub fn obtain(tree: &Tree, say: Say<'_>) -> Result<PathBuf> {
    let folder = tree.cache().join("debian");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Whoever comes second waits for the first one's image.
    let lock = File::create(folder.join("lock"))?;
    lock.lock().context("cannot lock the cache of the Debian image")?;
    let place = folder.join(key());
    if !place.join(IMAGE).exists() {
        say("making a Debian 12 with systemd and QEMU: once, in about a minute");
        let began = Instant::now();
        let unfinished = folder.join("unfinished");
        make(&unfinished)?;
        fs::rename(&unfinished, &place)
            .with_context(|| format!("cannot put the image into {}", place.display()))?;
        say(&format!("the Debian image is cached after {:.0} s", began.elapsed().as_secs_f64()));
    }
    Ok(place.join(IMAGE))
}

/// A disk to write to, as the image is: a copy without its holes.
///
/// # Errors
/// When it cannot be written.
pub fn disk(image: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    output(copy.args(["--reflink=auto", "--sparse=always"]).arg(image).arg(to)).map(drop)
}

/// Changes with everything that the image is made of.
fn key() -> String {
    let mut hasher = Sha256::new();
    hasher.update(RECIPE.to_le_bytes());
    hasher.update(SIZE.to_le_bytes());
    for text in [PACKAGES, CUSTOMIZE].iter().chain(&SOURCES).chain(&LEFT_OUT) {
        hasher.update(text);
        hasher.update([0]);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn make(unfinished: &Path) -> Result<()> {
    remove(unfinished)?;
    fs::create_dir(unfinished)?;
    let customize = unfinished.join("customize");
    fs::write(&customize, CUSTOMIZE)?;
    let root = unfinished.join("root");
    // As root: the files belong to those whom their packages want.
    let mut make = privileged("mmdebstrap", &[]);
    make.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    make.arg(format!("--include={PACKAGES}"));
    for path in LEFT_OUT {
        make.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    // The name within the hook is a word of the shell's.
    make.arg(format!("--customize-hook=sh '{}' \"$1\"", customize.display()));
    make.arg("bookworm").arg(&root);
    for source in SOURCES {
        make.arg(format!("deb [signed-by={KEYRING}] {source}"));
    }
    output(&mut make).context("the Debian system could not be made")?;

    let image = unfinished.join(IMAGE);
    File::create(&image)?.set_len(SIZE)?;
    let mut fill = privileged("mkfs.ext4", &[]);
    fill.args(["-q", "-F", "-L", "debian", "-d"]).arg(&root).arg(&image);
    output(&mut fill).context("the Debian image could not be filled")?;
    remove(&root)?;
    fs::remove_file(&customize)?;
    Ok(())
}

/// Removes a folder whose files belong to root.
fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    output(privileged("rm", &[]).args(["-rf", "--one-file-system"]).arg(folder)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_the_image_s_contents_and_its_holes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let (image, copy) = (folder.path().join("image"), folder.path().join("copy"));
        fs::write(&image, "first").unwrap();
        File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
        disk(&image, &copy).unwrap();
        let (bytes, size) = (fs::read(&copy).unwrap(), fs::metadata(&copy).unwrap());
        assert!(bytes.starts_with(b"first") && size.len() == 64 << 20);
        assert!(size.blocks() * 512 < 1 << 20, "{} blocks", size.blocks());
    }
}
