//! `cargo deny`: licences, bans and sources of everything we build on. It is not
//! part of the toolchain, so that this file also brings it.

use std::path::PathBuf;

use anyhow::Result;

use crate::steps::Tally;
use crate::workspace;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// Checks licences, bans and sources. Advisories are left out: they need a
/// database from the network, and a check that passes without it checks nothing.
pub fn run() -> Result<Tally> {
    let program = installed()?;
    let mut command = std::process::Command::new(program);
    command.args(["--locked", "--log-level", "error", "check", "bans", "licenses", "sources"]);
    workspace::run(command.current_dir(workspace::root()))?;
    Ok(Tally::default())
}

/// Installs the program below `target/` when it is not there: one place per
/// checkout, in the folder that is thrown away with it.
fn installed() -> Result<PathBuf> {
    let folder = workspace::root().join("target/tools");
    // Cargo's own list of what it installed there: it is written last.
    let list = std::fs::read_to_string(folder.join(".crates.toml")).unwrap_or_default();
    if !list.contains(&format!("\"cargo-deny {VERSION} ")) {
        println!("installing cargo-deny {VERSION} into target/tools; it takes minutes, once");
        let package = format!("cargo-deny@{VERSION}");
        let mut install = workspace::cargo(&["install", "--locked", "--quiet", &package]);
        workspace::run(install.arg("--root").arg(&folder))?;
    }
    Ok(folder.join("bin/cargo-deny"))
}
