//! Kills at random moments: the short form of the soak of that name.

use anyhow::Result;

use crate::scene::Scene;
use crate::soak::{self, kills};

/// How many kills: enough to hit each victim in about a minute.
const KILLS: u64 = 20;

/// Whatever is killed whenever, nothing that was acknowledged is undone.
pub async fn at_random_moments(scene: Scene) -> Result<()> {
    soak::short(scene, KILLS, kills::run).await
}
