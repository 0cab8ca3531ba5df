//! JSON merge patch, RFC 7386, over values that never hold null.

use serde_json::Value;

/// What turns `from` into `to`; `None` when they are equal.
pub fn diff(_from: &Value, _to: &Value) -> Option<Value> {
    None
}

/// Applies `patch` to `target` in place.
pub fn apply(_target: &mut Value, _patch: &Value) {}
