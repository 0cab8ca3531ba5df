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
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7386_appendix_a() {
        let examples = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (original, patch, result) in examples {
            let mut target = original.clone();
            apply(&mut target, &patch);
            assert_eq!(target, result, "{patch} upon {original}");
        }
    }

    #[test]
    fn a_patch_names_only_what_changed() {
        let from = json!({"disks": {"vda": {"size": 1, "read": 5}, "vdb": {"size": 2}}, "os": "x"});
        let to = json!({"disks": {"vda": {"size": 1, "read": 6}}, "os": "x", "up": []});
        let patch = json!({"disks": {"vda": {"read": 6}, "vdb": null}, "up": []});
        assert_eq!(diff(&from, &to), Some(patch));
    }

    #[test]
    fn every_control_character_measures_what_it_takes_to_write() {
        for byte in 0..=0x7F_u8 {
            let value = Value::from(char::from(byte).to_string());
            assert_eq!(measure(&value).bytes, value.to_string().len(), "{byte:#x}");
        }
    }

    #[test]
    fn keys_are_counted_at_all_levels() {
        let value = json!({"a": {"b": 1, "c": [{"d": {}}]}, "e": []});
        assert_eq!(measure(&value).keys, 5);
    }

    /// Values with few keys, so that two of them share some.
    fn value(leaf: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::hash_map("[a-c]|\\PC|\\x00", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn plain_leaf() -> BoxedStrategy<Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("JSON has no such number", |n| n.is_finite())
                .prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
        .boxed()
    }

    fn leaf_or_null() -> BoxedStrategy<Value> {
        prop_oneof![3 => plain_leaf(), 1 => Just(Value::Null)].boxed()
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_other(
            from in value(plain_leaf()), to in value(plain_leaf()),
        ) {
            let mut target = from.clone();
            if let Some(patch) = diff(&from, &to) {
                prop_assert_ne!(&from, &to);
                apply(&mut target, &patch);
            }
            prop_assert_eq!(target, to);
        }

        #[test]
        fn equal_values_do_not_differ(value in value(leaf_or_null())) {
            prop_assert_eq!(diff(&value, &value.clone()), None);
        }

        #[test]
        fn a_patch_applied_twice_is_a_patch_applied_once(
            mut target in value(leaf_or_null()), patch in value(leaf_or_null()),
        ) {
            apply(&mut target, &patch);
            let once = target.clone();
            apply(&mut target, &patch);
            prop_assert_eq!(target, once);
        }

        #[test]
        fn a_value_measures_what_it_takes_to_write(value in value(leaf_or_null())) {
            prop_assert_eq!(measure(&value).bytes, value.to_string().len());
        }
    }
}
