//! Who this guest is to its hosts: a random identity that outlives the agent
//! but not a clone of its disk. Apart from the channel because it is a file.

use std::path::Path;

use crate::sys::{Scratch, random, state, time};

/// The length of an identity in hexadecimal digits: 128 bits.
const ID_DIGITS: usize = 32;

/// Who this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, made at the first run.
    pub agent_id: String,
    /// The kernel's identifier of this boot; empty where it tells none.
    pub boot_id: String,
}

impl Identity {
    /// Reads the identity from `folder`, or makes one and keeps it there. Where
    /// nothing can be kept, as in an initramfs, it lasts as long as the agent.
    pub fn load(folder: &Path) -> Self {
        let boot_id = time::boot_id(&mut Scratch::new()).unwrap_or_else(|error| {
            tracing::warn!(%error, "The boot has no identifier that the host could be told.");
            String::new()
        });
        Self { agent_id: agent_id(&folder.join("agent-id"), &state::machine_id()), boot_id }
    }
}

/// The file holds the identity and the machine id that it was made under: a
/// clone gets a new machine id, and must get a new identity with it.
fn agent_id(path: &Path, machine_id: &str) -> String {
    if let Ok(content) = std::fs::read_to_string(path) {
        let mut lines = content.lines();
        let (id, made_under) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let is_whole = id.len() == ID_DIGITS && id.bytes().all(|it| it.is_ascii_hexdigit());
        if is_whole && made_under == machine_id {
            return id.to_owned();
        }
        tracing::info!("This machine has a new identity: its machine id changed.");
    }
    let id = random::hex_128();
    if let Err(error) = state::write_private(path, &format!("{id}\n{machine_id}\n")) {
        tracing::warn!(
            path = %path.display(), %error,
            "The agent's identity cannot be kept and lasts until the agent ends."
        );
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_kept_until_the_machine_id_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent-id");
        let first = agent_id(&path, "machine");
        assert_eq!(agent_id(&path, "machine"), first);
        let clone = agent_id(&path, "clone");
        assert_ne!(clone, first);
        assert_eq!(agent_id(&path, "clone"), clone);
    }

    #[test]
    fn a_broken_file_is_replaced_and_a_read_only_disk_is_survived() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent-id");
        std::fs::write(&path, "short\n").unwrap();
        let id = agent_id(&path, "");
        assert_eq!(id.len(), ID_DIGITS);
        assert_eq!(agent_id(Path::new("/proc/nowhere/agent-id"), "").len(), ID_DIGITS);
    }
}
