//! Where things are in a checkout: the sources, cargo's target directory and
//! the lab's cache. One place, so that demo, tests and benchmarks share what
//! was fetched and built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Names the lab's cache instead of `target/lab`, so that several checkouts
/// can share one kernel.
const CACHE_VARIABLE: &str = "INFINIBAY_LAB_CACHE";

/// A checkout of the project.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    target: PathBuf,
    cache: PathBuf,
}

impl Tree {
    /// The checkout that this program was compiled from.
    ///
    /// # Errors
    /// When the checkout is gone or the cache cannot be made.
    pub fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate `lab` does not lie in a workspace")?
            .canonicalize()
            .context("the checkout that this program was built from is gone")?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |named| root.join(named));
        let cache = std::env::var_os(CACHE_VARIABLE)
            .map_or_else(|| target.join("lab"), |named| root.join(named));
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        Ok(Self { root, target, cache })
    }

    /// The workspace's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// What the lab fetched and built, kept between runs.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }
}
