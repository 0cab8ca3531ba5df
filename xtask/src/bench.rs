//! `cargo xtask bench`: builds what is measured as it is shipped, and measures.

use anyhow::Result;

use crate::workspace;

/// Measure beside peers and limits; without a name, list what can be measured
#[derive(clap::Args)]
pub struct Args {
    /// The benchmark and its own arguments
    #[arg(trailing_var_arg = true)]
    benchmark: Vec<String>,
}

/// Builds and runs one benchmark.
pub fn run(args: &Args) -> Result<()> {
    if !args.benchmark.is_empty() {
        workspace::run(&mut workspace::cargo(&[
            "build",
            "--package",
            "infiniservice",
            "--profile",
            "agent",
            "--target",
            "x86_64-unknown-linux-musl",
        ]))?;
        workspace::run(&mut workspace::cargo(&[
            "build",
            "--release",
            "--package",
            "vmm-service",
            "--package",
            "vmmctl",
        ]))?;
    }
    let mut command =
        workspace::cargo(&["run", "--quiet", "--release", "--package", "bench", "--"]);
    match args.benchmark.as_slice() {
        [] => command.arg("help"),
        some => command.args(some),
    };
    workspace::run(&mut command)
}
