//! The host's own faults, with machines that must run on through all of them.

use anyhow::Result;

use crate::scene::Scene;
use crate::soak::{self, state_damage};

/// How many wounds: two of them are shown to the daemon itself.
const WOUNDS: u64 = 40;

/// The state's files, damaged anywhere: refused with what to do, or read as they
/// were.
pub async fn a_damaged_state_is_refused_or_read_as_it_was(scene: Scene) -> Result<()> {
    soak::short(scene, WOUNDS, state_damage::run).await
}
