//! The initial RAM file system of the Debian guest: it loads the disk's driver,
//! puts files onto the disk and hands over to the disk's systemd. So the image
//! stays as it was made, whatever is tested with it.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cpio::Writer;
use crate::kernel::Kernel;
use crate::program::{find, is_static, output};

/// PID 1 until the disk's own takes over.
const INIT: &str = include_str!("../../debian/init");
/// The folders of the initial RAM file system itself.
const FOLDERS: &[&str] = &["bin", "dev", "disk", "files", "lib", "lib/modules", "proc", "sys"];
/// What [`INIT`] calls that is not in its shell.
const PROGRAMS: &[&str] =
    &["cp", "insmod", "mount", "poweroff", "sh", "switch_root", "sync", "umount"];

/// A file that comes onto the disk before its systemd begins. It belongs to
/// root; the folders above it are made.
#[derive(Clone, Debug)]
pub struct File {
    to: String,
    permissions: u32,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    Text(String),
    Copy(PathBuf),
    Program(PathBuf),
}

impl File {
    /// A text, at an absolute path, for all to read.
    #[must_use]
    pub fn text(to: &str, text: &str) -> Self {
        Self { to: to.to_owned(), permissions: 0o644, from: From::Text(text.to_owned()) }
    }

    /// A script, for all to run.
    #[must_use]
    pub fn script(to: &str, text: &str) -> Self {
        Self { permissions: 0o755, ..Self::text(to, text) }
    }

    /// A file of the host's, for all to read.
    #[must_use]
    pub fn copy(to: &str, from: &Path) -> Self {
        Self { to: to.to_owned(), permissions: 0o644, from: From::Copy(from.to_owned()) }
    }

    /// A program of the host's, without what debuggers read: that is more than
    /// half of it. Its libraries must be among those of Debian 12.
    #[must_use]
    pub fn program(to: &str, from: &Path) -> Self {
        Self { to: to.to_owned(), permissions: 0o755, from: From::Program(from.to_owned()) }
    }

    fn read(&self) -> Result<Vec<u8>> {
        match &self.from {
            From::Text(text) => Ok(text.clone().into_bytes()),
            From::Copy(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
            From::Program(path) => {
                // Not through a pipe: strip goes back in what it writes.
                let stripped = tempfile::NamedTempFile::new()?;
                output(Command::new("strip").arg("-s").arg("-o").arg(stripped.path()).arg(path))?;
                Ok(fs::read(stripped.path())?)
            }
        }
    }
}

/// Writes the initial RAM file system that puts `files` onto the disk, to `to`.
/// A disk gets the same files once, whatever happens to it afterwards.
///
/// # Errors
/// When a file or busybox cannot be read, a path is not absolute, or `to`
/// cannot be written.
pub fn initrd(kernel: &Kernel, files: &[File], to: &Path) -> Result<()> {
    let mut archive = Writer::new(Vec::new());
    for folder in FOLDERS {
        archive.directory(folder)?;
    }
    // The kernel opens it for PID 1 before devtmpfs is mounted.
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    let busybox = find("busybox").context("busybox is missing: install busybox-static")?;
    if !is_static(&busybox)? {
        bail!("{} is not static: install busybox-static", busybox.display());
    }
    archive.file("bin/busybox", 0o755, &fs::read(&busybox)?)?;
    for name in PROGRAMS {
        archive.symlink(&format!("bin/{name}"), "busybox")?;
    }
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("lib/modules/{name}"), 0o644, &fs::read(module)?)?;
    }
    let id = add(files, &mut archive)?;
    archive.file("files.id", 0o644, format!("{id:016x}\n").as_bytes())?;
    fs::write(to, archive.finish()?).with_context(|| format!("cannot write {}", to.display()))
}

/// Adds the files, and gives what tells them from others.
fn add(files: &[File], archive: &mut Writer<Vec<u8>>) -> Result<u64> {
    let mut folders = BTreeSet::new();
    for file in files {
        if !file.to.starts_with('/') {
            bail!("{:?} is no absolute path in the guest", file.to);
        }
        let above = Path::new(&file.to).ancestors().skip(1);
        folders.extend(above.map(Path::to_path_buf).filter(|folder| folder != Path::new("/")));
    }
    // Sorted, so that a folder comes before what lies in it.
    for folder in folders {
        archive.directory(&format!("files{}", folder.display()))?;
    }
    let mut hasher = DefaultHasher::new();
    for file in files {
        let contents = file.read()?;
        hasher.write(file.to.as_bytes());
        hasher.write_u32(file.permissions);
        hasher.write(&contents);
        archive.file(&format!("files{}", file.to), file.permissions, &contents)?;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(files: &[File]) -> u64 {
        add(files, &mut Writer::new(Vec::new())).unwrap()
    }

    #[test]
    fn other_files_have_another_id() {
        let one = [File::text("/etc/a", "a")];
        assert_eq!(id(&one), id(&one));
        assert_ne!(id(&one), id(&[File::text("/etc/a", "b")]));
        assert_ne!(id(&one), id(&[File::text("/etc/b", "a")]));
    }

    #[test]
    fn folders_come_before_what_lies_in_them() {
        let mut archive = Writer::new(Vec::new());
        add(&[File::text("/etc/x/y", "a")], &mut archive).unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("files/etc\0") < at("files/etc/x\0") && at("files/etc/x\0") < at("x/y\0"));
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert!(add(&[File::text("etc/a", "a")], &mut Writer::new(Vec::new())).is_err());
    }
}
