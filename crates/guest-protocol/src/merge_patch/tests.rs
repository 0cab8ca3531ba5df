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
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
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
