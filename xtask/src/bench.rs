//! `cargo xtask bench`: builds what is measured as it is shipped, and measures.

use anyhow::Result;
use lab::Tree;
use lab::build::Profile;

use crate::{e2e, workspace};

/// Measure beside peers and limits; without a name, list what can be measured
#[derive(clap::Args)]
pub struct Args {
    /// The benchmark and its own arguments
    #[arg(trailing_var_arg = true)]
    benchmark: Vec<String>,
}

/// Builds and runs one benchmark.
pub fn run(args: &Args) -> Result<()> {
    let mut command =
        workspace::cargo(&["run", "--quiet", "--release", "--package", "bench", "--"]);
    if args.benchmark.is_empty() {
        return workspace::run(command.arg("help"));
    }
    let say = |line: &str| println!("{line}");
    e2e::install()?;
    lab::packages::ensure(lab::packages::TO_MEASURE, &say)?;
    let tree = Tree::locate()?;
    let agent = lab::build::agent(&tree, &say)?;
    if matches!(args.benchmark[0].as_str(), "hub-flood" | "hub-scale") {
        lab::build::simulated_daemon(&tree, &say)?;
    }
    let host = lab::build::host_programs(&tree, Profile::Release, &say)?;
    command.args(&args.benchmark).arg("--agent").arg(agent);
    workspace::run(command.arg("--programs").args(host.daemon.parent()))
}
