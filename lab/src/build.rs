//! Builds the programs that the lab runs, by cargo, on the caller's terminal.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::program::run;
use crate::{Say, Tree};

/// The target whose programs need no libraries.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-musl";

/// How the host's programs are optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Not at all: a third of the time to compile, fast enough for all that is
    /// not measured.
    Dev,
    /// As they are shipped: for measurements.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// The folder below the target directory; cargo calls that of `dev` so.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The host's programs.
#[derive(Clone, Debug)]
pub struct HostPrograms {
    /// `vmm-service`.
    pub daemon: PathBuf,
    /// `vmmctl`.
    pub vmmctl: PathBuf,
}

/// Builds `vmm-service` and `vmmctl`.
///
/// # Errors
/// When they do not compile.
pub fn host_programs(tree: &Tree, profile: Profile, say: Say<'_>) -> Result<HostPrograms> {
    say("building vmm-service and vmmctl");
    run(cargo(tree).args(["build", "--profile", profile.name()]).args([
        "--package",
        "vmm-service",
        "--package",
        "vmmctl",
    ]))?;
    let folder = tree.target().join(profile.folder());
    Ok(HostPrograms { daemon: folder.join("vmm-service"), vmmctl: folder.join("vmmctl") })
}

/// Builds a `vmm-service` with simulated machines in it, optimised as the one
/// that is shipped, and gives its path: beside that one, under its own name.
///
/// # Errors
/// When it does not compile.
pub fn simulated_daemon(tree: &Tree, say: Say<'_>) -> Result<PathBuf> {
    say("building vmm-service with simulated machines");
    run(cargo(tree)
        .args(["build", "--profile", Profile::Release.name(), "--package", "vmm-service"])
        .args(["--features", "simulated"]))?;
    let folder = tree.target().join(Profile::Release.folder());
    let path = folder.join("vmm-service-simulated");
    // Cargo gives it the name of the other, which is built next.
    std::fs::copy(folder.join("vmm-service"), &path)?;
    Ok(path)
}

/// Builds the agent as it is shipped, static, and gives its path.
///
/// # Errors
/// When it does not compile.
pub fn agent(tree: &Tree, say: Say<'_>) -> Result<PathBuf> {
    say("building the guest's agent, infiniservice");
    run(cargo(tree)
        .args(["build", "--profile", "agent", "--package", "infiniservice"])
        .args(["--target", GUEST_TARGET]))?;
    Ok(tree.target().join(GUEST_TARGET).join("agent").join("infiniservice"))
}

/// The cargo that runs us, or the one in `PATH`.
fn cargo(tree: &Tree) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(tree.root());
    command
}
