//! The few files that the agent keeps, and where Linux keeps its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the configuration is looked for unless it is named.
pub const DEFAULT_CONFIG: &str = "/etc/infiniservice/config.toml";

/// What lasts over restarts lies below `/var/lib` (hier(7)).
const DEFAULT_STATE: &str = "/var/lib/infiniservice";

/// The folder for the agent's state: what the service manager gave, or the
/// usual one.
pub fn folder() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| DEFAULT_STATE.into(), PathBuf::from)
}

/// The machine's identity (machine-id(5)), which is remade when an image is
/// cloned properly; empty where there is none.
pub fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Writes a private file whole or not at all: a crash leaves the old one.
pub fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let draft = path.with_extension("new");
    // One that an interrupted write left would keep its mode.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_file_is_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/agent-id");
        write_private(&path, "one").unwrap();
        fs::write(path.with_extension("new"), "left over").unwrap();
        write_private(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
