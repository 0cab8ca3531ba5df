//! What the owner of a state file does without a daemon: see whether it is
//! whole, a backup for example, and have it taken after mending it.

use std::path::Path;

use anyhow::{Result, bail};

use crate::config::StateUrl;
use crate::door;
use crate::store::{Contents, SqliteStore};

/// Checks the state file and prints what it holds.
pub fn check(state: &StateUrl) -> Result<()> {
    let path = file(state)?;
    tell(path, "is whole", &SqliteStore::check(path)?);
    Ok(())
}

/// Takes what is in the state file for what was written, and prints it.
pub fn accept(state: &StateUrl) -> Result<()> {
    let path = file(state)?;
    let _only_we = door::lock_state(path)?;
    tell(path, "was taken as it is", &SqliteStore::accept(path)?);
    Ok(())
}

fn file(state: &StateUrl) -> Result<&Path> {
    match state {
        StateUrl::Sqlite(path) => Ok(path),
        StateUrl::Memory => bail!("the state is kept in memory: there is no file (VMM_STATE_URL)"),
    }
}

/// Two files with the same lines hold the same.
fn tell(path: &Path, what: &str, contents: &Contents) {
    println!("{} {what} (version {}).", path.display(), contents.version);
    if contents.tables.is_empty() {
        println!("This version has no checksums; the daemon adds them when it starts.");
    }
    for (name, total) in &contents.tables {
        println!("{name}: {} rows, checksum {:016x}", total.rows, total.seals);
    }
}
