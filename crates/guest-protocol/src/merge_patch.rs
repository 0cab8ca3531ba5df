//! JSON merge patch, RFC 7386, over values that never hold null, and how large
//! such a value is. Values come out of the codec, whose limit on depth bounds
//! the recursion here.

use serde_json::{Map, Value};

/// How large a value is, as the limits on facts count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of compact JSON.
    pub bytes: usize,
    /// Object keys, at all levels together.
    pub keys: usize,
}

/// What turns `from` into `to`; `None` when they are equal. A null in `to`
/// cannot be told from an absence: it comes out as absent.
pub fn diff(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return (from != to).then(|| to.clone());
    };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, new) in to {
        let change = match from.get(key) {
            Some(old) => diff(old, new),
            None => Some(new.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Applies `patch` to `target` in place.
pub fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, change) in patch {
        if change.is_null() {
            target.remove(key);
        } else if let Some(old) = target.get_mut(key) {
            apply(old, change);
        } else {
            // Not a plain clone: the new member's own nulls must go.
            let mut new = Value::Null;
            apply(&mut new, change);
            target.insert(key.clone(), new);
        }
    }
}

/// Counts the bytes and keys of `value` without writing it out.
pub fn measure(value: &Value) -> Size {
    let mut size = Size::default();
    let mut pending = vec![value];
    while let Some(value) = pending.pop() {
        size.bytes += match value {
            Value::Null => "null".len(),
            Value::Bool(true) => "true".len(),
            Value::Bool(false) => "false".len(),
            Value::Number(number) => number_bytes(number),
            Value::String(text) => string_bytes(text),
            Value::Array(elements) => {
                pending.extend(elements);
                enclosed_bytes(elements.len())
            }
            Value::Object(members) => {
                pending.extend(members.values());
                size.keys += members.len();
                let keys: usize = members.keys().map(|key| string_bytes(key) + ":".len()).sum();
                keys + enclosed_bytes(members.len())
            }
        };
    }
    size
}

/// The brackets and the commas between `count` values.
fn enclosed_bytes(count: usize) -> usize {
    "[]".len() + count.saturating_sub(1)
}

fn string_bytes(text: &str) -> usize {
    let escapes: usize = text.bytes().map(escape_bytes).sum();
    "\"\"".len() + text.len() + escapes
}

/// How much longer `byte` gets when it is escaped.
fn escape_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0A | 0x0C | 0x0D => "\\n".len() - 1,
        0x00..=0x1F => "\\u0000".len() - 1,
        _ => 0,
    }
}

fn number_bytes(number: &serde_json::Number) -> usize {
    if let Some(number) = number.as_u64() {
        return digits(number);
    }
    if let Some(number) = number.as_i64() {
        return "-".len() + digits(number.unsigned_abs());
    }
    // A fraction is rare, and its shortest form has no simple length.
    number.to_string().len()
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests;
