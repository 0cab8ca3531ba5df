//! `promtool`, the Prometheus text format's own checker, which a unit test runs.
//! Its package would start a server, so that it is unpacked and not installed.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::workspace;

/// The variable by which the test finds it.
pub const VARIABLE: &str = "PROMTOOL";

/// Where it is: the system's, or one of our own below `target/`.
pub fn obtain() -> Result<PathBuf> {
    if let Some(installed) = lab::program::find("promtool") {
        return Ok(installed);
    }
    let folder = workspace::root().join("target/tools/prometheus");
    let program = folder.join("usr/bin/promtool");
    if !program.is_file() {
        println!("unpacking promtool into target/tools: it checks the daemon's metrics");
        lab::packages::unpack("prometheus", &folder)?;
        ensure!(program.is_file(), "the package prometheus holds no usr/bin/promtool any more");
    }
    Ok(program)
}
