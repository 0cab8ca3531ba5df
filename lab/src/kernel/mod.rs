//! The kernel of the lab's guests: Debian's cloud kernel, fetched, verified
//! down to a key that the host already trusts, and cached. The host's own
//! kernel would do nowhere: it may be unreadable, absent (in a container) or
//! without the drivers.

mod archive;
mod modules;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub use archive::KEYRING;

use crate::program::output;
use crate::{Say, Tree};

/// The package that depends on the newest kernel made for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// The modules that a guest asks for. The channel comes first: the agent waits
/// for it. Each is preceded by what it depends on.
const WANTED_MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "virtio_rng", "virtio_net", "virtio_blk", "button", "evdev"];
/// Written last, so that a half-made folder is not taken for a kernel.
const ORDER_FILE: &str = "modules.order";

/// A kernel on disk.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The modules that a guest loads, in that order.
    pub modules: Vec<PathBuf>,
}

/// The cached kernel, or the newest one of Debian.
///
/// # Errors
/// When nothing is cached and the archive cannot be reached or verified.
pub fn obtain(tree: &Tree, say: Say<'_>) -> Result<Kernel> {
    let folder = tree.cache().join("kernel");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Tests run side by side: one fetches, the others wait for it.
    let lock = File::create(folder.join("lock"))?;
    lock.lock().context("cannot lock the kernel cache")?;
    if let Some(kernel) = cached(&folder)? {
        return Ok(kernel);
    }
    say("fetching and verifying Debian's cloud kernel");
    let scratch = folder.join("scratch");
    remove(&scratch)?;
    fs::create_dir_all(&scratch)?;
    let release = fetch(&folder, &scratch)?;
    remove(&scratch)?;
    say(&format!("kernel {release} is verified and cached"));
    cached(&folder)?.context("the kernel that was just cached is not there")
}

/// The newest complete kernel in the cache.
fn cached(folder: &Path) -> Result<Option<Kernel>> {
    let mut found: Option<Kernel> = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(order) = fs::read_to_string(path.join(ORDER_FILE)) else { continue };
        let release = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if found.as_ref().is_some_and(|other| other.release > release) {
            continue;
        }
        let modules = order.lines().map(|name| path.join(name)).collect();
        found = Some(Kernel { release, image: path.join("vmlinuz"), modules });
    }
    Ok(found)
}

/// Fetches the newest kernel into its own folder and gives its release.
fn fetch(folder: &Path, scratch: &Path) -> Result<String> {
    let indexes = archive::Indexes::fetch(scratch)?;
    let meta = indexes.newest(META_PACKAGE)?;
    let package = kernel_package(&meta.depends)
        .with_context(|| format!("{META_PACKAGE} depends on no kernel: {}", meta.depends))?;
    let deb = indexes.download(&indexes.newest(&package)?, scratch)?;
    let release = package.trim_start_matches("linux-image-").to_owned();

    let unpacked = scratch.join("unpacked");
    unpack(&deb, &unpacked)?;
    let made = scratch.join("made");
    fs::create_dir(&made)?;
    let image = format!("vmlinuz-{release}");
    fs::rename(unpacked.join("boot").join(&image), made.join("vmlinuz"))
        .with_context(|| format!("{package} holds no boot/{image}"))?;
    let mut order = String::new();
    for (index, module) in modules::in_load_order(&unpacked, WANTED_MODULES)?.iter().enumerate() {
        // The number makes the order visible in the guest: a sorted glob.
        let name = format!("{index:02}-{}.ko", module.name);
        fs::copy(&module.path, made.join(&name))?;
        order.push_str(&name);
        order.push('\n');
    }
    fs::write(made.join(ORDER_FILE), order)?;
    let place = folder.join(&release);
    remove(&place)?;
    fs::rename(&made, &place)
        .with_context(|| format!("cannot put the kernel into {}", place.display()))?;
    Ok(release)
}

/// The package that a line such as `linux-image-6.1.0-9-cloud-amd64 (= 6.1.2)`
/// names.
fn kernel_package(depends: &str) -> Option<String> {
    depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"))
        .map(str::to_owned)
}

/// Unpacks the image and all modules; installing is not needed, and would want
/// root.
fn unpack(deb: &Path, into: &Path) -> Result<()> {
    fs::create_dir(into)?;
    let mut contents = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let pipe = contents.stdout.take().context("dpkg-deb gave no output")?;
    let unpacked = Command::new("tar")
        .arg("-x")
        .arg("-C")
        .arg(into)
        .args(["--wildcards", "./boot/vmlinuz-*", "./lib/modules/*.ko"])
        .stdin(pipe)
        .status()
        .context("cannot run tar")?;
    let read = contents.wait().context("cannot wait for dpkg-deb")?;
    if !read.success() || !unpacked.success() {
        bail!("cannot unpack {}: dpkg-deb {read}, tar {unpacked}", deb.display());
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Whether one Debian version is newer than another, as dpkg has it.
fn is_newer(version: &str, than: &str) -> bool {
    output(Command::new("dpkg").args(["--compare-versions", version, "gt", than])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernel_from_the_dependencies() {
        let depends = "linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)";
        assert_eq!(kernel_package(depends).unwrap(), "linux-image-6.1.0-50-cloud-amd64");
        let among = "kmod, linux-image-6.1.0-5-cloud-amd64 (= 1), linux-base";
        assert_eq!(kernel_package(among).unwrap(), "linux-image-6.1.0-5-cloud-amd64");
        assert_eq!(kernel_package("linux-image-amd64"), None);
    }

    #[test]
    fn a_folder_without_its_order_is_no_kernel() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("6.1.0-1")).unwrap();
        assert!(cached(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("6.1.0-1").join(ORDER_FILE), "00-virtio.ko\n").unwrap();
        let kernel = cached(folder.path()).unwrap().unwrap();
        assert_eq!(kernel.release, "6.1.0-1");
        assert!(kernel.modules[0].ends_with("6.1.0-1/00-virtio.ko"));
    }
}
