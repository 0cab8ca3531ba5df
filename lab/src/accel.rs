//! How a guest's processor is had on this machine. `/dev/kvm` may exist, open
//! and still run no guest, so the daemon finds out by booting one; the lab asks
//! the daemon and remembers the answer until the host reboots.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::Tree;
use crate::program::output;

/// Changes with every boot of the host, and so does what the answer rests on.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How a guest's processor is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the host's processor.
    Kvm,
    /// By emulation.
    Tcg,
}

impl Accelerator {
    /// Its name for QEMU.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        // The daemon says why in a second line.
        match name.lines().next()?.trim() {
            "kvm" => Some(Self::Kvm),
            "tcg" => Some(Self::Tcg),
            _ => None,
        }
    }
}

/// What this machine can do, asked of the built daemon once a boot.
///
/// # Errors
/// When the daemon cannot be asked.
pub fn find(tree: &Tree, daemon: &Path) -> Result<Accelerator> {
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let remembered = tree.cache().join(format!("accelerator-{}", boot_id.trim()));
    if let Some(known) =
        fs::read_to_string(&remembered).ok().as_deref().and_then(Accelerator::parse)
    {
        return Ok(known);
    }
    let answer = output(Command::new(daemon).arg("--check-accel"))?;
    let answer = String::from_utf8_lossy(&answer);
    let Some(found) = Accelerator::parse(&answer) else {
        bail!("{} --check-accel said neither kvm nor tcg: {answer}", daemon.display());
    };
    fs::write(&remembered, found.as_str())
        .with_context(|| format!("cannot write {}", remembered.display()))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            assert_eq!(Accelerator::parse(accelerator.as_str()), Some(accelerator));
        }
        assert_eq!(Accelerator::parse("tcg\nthere is no kvm\n"), Some(Accelerator::Tcg));
        assert_eq!(Accelerator::parse("hvf"), None);
        assert_eq!(Accelerator::parse(""), None);
    }
}
