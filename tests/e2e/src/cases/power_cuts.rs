//! Power cuts: the short form of the soak of that name.

use anyhow::Result;

use crate::scene::Scene;
use crate::soak::{self, power_cuts};

/// How many cuts: each boots a host, which takes some ten seconds.
const CUTS: u64 = 2;

/// A host that loses its power loses nothing that was acknowledged.
pub async fn undo_nothing(scene: Scene) -> Result<()> {
    soak::short(scene, CUTS, power_cuts::run).await
}
