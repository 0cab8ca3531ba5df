//! Idempotency keys: a request that is repeated because its answer was lost
//! makes one VM, not two. The store remembers them, in the transaction of what
//! they made, so that a restart of the daemon between the two changes nothing.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use super::problem::{ApiError, Result};
use crate::store::IdempotencyKey;

/// The longest key, in bytes: room for a UUID and a path.
const MAX_KEY_BYTES: usize = 255;

/// The only principal until signatures are there.
const PRINCIPAL: &str = "administrator";

/// The key of a request, if it has one, scoped to who asks for what. `route` is
/// the same for a route and its alias.
pub fn key(headers: &HeaderMap, route: &str, body: &[u8]) -> Result<Option<IdempotencyKey>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()))
        .ok_or_else(|| {
            let detail = format!("Idempotency-Key: write 1 to {MAX_KEY_BYTES} ASCII characters.");
            ApiError::bad_parameter(detail)
        })?;
    let body_hash = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(IdempotencyKey { key: format!("{PRINCIPAL} {route} {key}"), body_hash }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Result<Option<IdempotencyKey>> {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", value.parse().unwrap());
        key(&headers, "POST /vms", b"{}")
    }

    #[test]
    fn a_key_is_scoped_and_bounded() {
        assert_eq!(key(&HeaderMap::new(), "POST /vms", b"{}").unwrap(), None);
        let found = of("k").unwrap().unwrap();
        assert_eq!(found.key, "administrator POST /vms k");
        assert_eq!(found.body_hash.len(), 64);
        assert_eq!(of("").unwrap_err().0.status, 400);
        assert_eq!(of(&"k".repeat(256)).unwrap_err().0.status, 400);
    }
}
