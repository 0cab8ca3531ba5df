//! What all tests stand on: the built programs, a verified kernel and a guest to
//! boot. Made once and shared; what one test changes is in its scene.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use lab::accel::Accelerator;
use lab::build::HostPrograms;
use lab::guest::Contents;
use lab::kernel::Kernel;

/// The shared ground of all tests.
pub struct Stage {
    /// The built daemon and operator's tool.
    pub programs: HostPrograms,
    agent: PathBuf,
    /// The guests' kernel.
    pub kernel: Kernel,
    /// What random tests are to choose by, if that was said.
    pub seed: Option<u64>,
    folder: tempfile::TempDir,
    guests: AtomicUsize,
}

impl Stage {
    /// Finds the programs, obtains the kernel and makes the guest.
    pub fn set(programs: &Path, agent: &Path, seed: Option<u64>) -> Result<Arc<Self>> {
        let tree = lab::Tree::locate()?;
        let built = |path: &Path| {
            let path = tree.root().join(path);
            path.canonicalize()
                .with_context(|| format!("{} is not built; `cargo xtask e2e` does", path.display()))
        };
        let host = HostPrograms {
            daemon: built(&programs.join("vmm-service"))?,
            vmmctl: built(&programs.join("vmmctl"))?,
        };
        let agent = built(agent)?;
        let kernel = lab::kernel::obtain(&tree, &|line| println!("{line}"))?;
        let folder = tempfile::Builder::new().prefix("ib-stage-").tempdir_in("/tmp")?;
        let guests = AtomicUsize::new(0);
        let stage = Self { programs: host, agent, kernel, seed, folder, guests };
        lab::guest::build(&stage.contents(), &stage.initrd())?;
        Ok(Arc::new(stage))
    }

    /// What the usual guest is made of: the agent, and nothing more.
    pub fn contents(&self) -> Contents<'_> {
        Contents { kernel: &self.kernel, agent: Some(&self.agent), programs: &[], files: &[] }
    }

    /// The initial RAM file system of the usual guest.
    pub fn initrd(&self) -> PathBuf {
        self.folder.path().join("initrd")
    }

    /// A guest with further files in it, as [`Contents::files`] describes them.
    pub fn guest_with(&self, name: &str, files: &[(&str, u32, &str)]) -> Result<PathBuf> {
        let initrd = self.folder.path().join(name);
        lab::guest::build(&Contents { files, ..self.contents() }, &initrd)?;
        Ok(initrd)
    }

    /// The Debian image and how its guest's processor is had. Blocks.
    pub fn debian(&self) -> Result<(PathBuf, Accelerator)> {
        let tree = lab::Tree::locate()?;
        let image = lab::debian::obtain(&tree, &|line| println!("{line}"))?;
        Ok((image, lab::accel::find(&tree, &self.programs.daemon)?))
    }

    /// Counts a guest whose processors ran.
    pub fn count_guest(&self) {
        self.guests.fetch_add(1, Ordering::Relaxed);
    }

    /// How many guests were booted so far.
    pub fn guests_booted(&self) -> usize {
        self.guests.load(Ordering::Relaxed)
    }
}
