//! File systems for one test: one that is soon full, a tmpfs of a few hundred KiB;
//! and one that can fail as on a broken disk.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Unmounted with this value.
pub struct SmallFileSystem {
    path: PathBuf,
}

impl SmallFileSystem {
    /// Mounts one of `kib` KiB at `path`, which is made.
    pub fn mount(path: PathBuf, kib: u32) -> Result<Self> {
        std::fs::create_dir(&path)?;
        let size = format!("size={kib}k");
        lab::program::run(
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path),
        )?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte; removing the file makes the room again.
    pub fn fill(&self) -> Result<PathBuf> {
        let ballast = self.path.join("ballast");
        let mut file = File::create(&ballast)?;
        loop {
            match file.write(&[0; 4096]) {
                Ok(0) => bail!("nothing was written, and no reason was given"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(ballast),
                Err(error) => return Err(error).context("the file system could not be filled"),
            }
        }
    }
}

/// An ext4 in a file, which can be had to fail. Unmounted with this value.
pub struct FailingFileSystem {
    image: PathBuf,
    mounted: SmallFileSystem,
}

impl FailingFileSystem {
    /// Makes one of `mib` MiB, in a file beside `path`, and mounts it there.
    pub fn mount(path: PathBuf, mib: u64) -> Result<Self> {
        std::fs::create_dir(&path)?;
        let image = path.with_extension("ext4");
        File::create(&image)?.set_len(mib << 20)?;
        lab::program::run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        let system = Self { image, mounted: SmallFileSystem { path } };
        system.mount_again()?;
        Ok(system)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Fills it to the last byte; removing the file makes the room again.
    pub fn fill(&self) -> Result<PathBuf> {
        self.mounted.fill()
    }

    /// Makes it read-only under the feet of whoever uses it, as the kernel does
    /// when the disk fails.
    pub fn fail(&self) -> Result<()> {
        lab::program::run(Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()))
    }

    /// Mends and mounts it, once nobody uses it any more.
    pub fn mend(&self) -> Result<()> {
        lab::program::run(Command::new("umount").arg(self.path()))?;
        // 1 is success, too: something was mended.
        let output = Command::new("e2fsck").arg("-p").arg(&self.image).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "e2fsck: {said}");
        self.mount_again()
    }

    fn mount_again(&self) -> Result<()> {
        lab::program::run(
            Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(self.path()),
        )
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: a daemon that is being killed may still hold a file in it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
