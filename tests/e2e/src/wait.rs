//! Waiting for a condition with a deadline: no test sleeps and hopes. The lab
//! has the same for threads; this one lets other tasks of a test go on.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Between two looks: short beside everything that tests wait for.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks again and again until `look` gives something. Fails when `look` fails,
/// or when it gave nothing within `limit`; the error names `what`.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut looks = tokio::time::interval(INTERVAL);
    loop {
        looks.tick().await;
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs_f64());
        }
    }
}
