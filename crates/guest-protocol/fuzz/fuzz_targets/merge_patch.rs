//! Merge patch over arbitrary values: the difference leads from one to the
//! other, applying twice changes nothing more, and the measure is exact.
#![no_main]

use guest_protocol::merge_patch::{apply, diff, measure};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let mut values = serde_json::Deserializer::from_slice(input).into_iter::<Value>();
    let (Some(Ok(from)), Some(Ok(to))) = (values.next(), values.next()) else { return };
    assert_eq!(measure(&from).bytes, from.to_string().len());

    let mut target = from.clone();
    apply(&mut target, &to);
    let once = target.clone();
    apply(&mut target, &to);
    assert_eq!(target, once);

    if has_null(&from) || has_null(&to) {
        return;
    }
    let mut target = from.clone();
    match diff(&from, &to) {
        Some(patch) => apply(&mut target, &patch),
        None => assert_eq!(from, to),
    }
    assert_eq!(target, to);
});

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}
