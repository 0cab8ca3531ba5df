//! Waiting for a condition with a deadline. Every wait in the lab goes through
//! here, so that none can last for ever and each failure names what it waited
//! for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition: short beside a guest's boot, long beside
/// the cost of a look.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks again and again until `condition` gives something.
///
/// # Errors
/// When `condition` fails, or gives nothing within `limit`; the error names
/// `what`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs_f64());
        }
        std::thread::park_timeout(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_the_condition_found() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn names_what_did_not_come() {
        let error = until::<()>("the impossible", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(error.to_string().starts_with("the impossible"), "{error}");
    }
}
