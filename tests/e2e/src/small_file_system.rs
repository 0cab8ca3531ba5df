//! A file system that is soon full: a tmpfs of a few hundred KiB, mounted for
//! one test.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

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

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: a daemon that is being killed may still hold a file in it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
