//! One guest's merged facts: kept as the JSON that the guest told, within
//! limits, and shown as typed facts as far as they fit. Apart from the rest of
//! what is known of a guest because everything here is about hostile JSON.

use guest_protocol::facts::Facts;
use guest_protocol::limits::{MAX_FACTS_BYTES, MAX_FACTS_KEYS};
use guest_protocol::merge_patch::{self, Size};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How many values, array elements included, facts may hold. A value takes 32
/// bytes in memory however short its text, so the limit on bytes of JSON alone
/// would let a guest hold sixteen times as much of the host's memory.
const MAX_FACTS_VALUES: usize = 4 * MAX_FACTS_KEYS;

/// Why a report was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// Facts are an object or nothing.
    NotAnObject,
    /// The merged facts would have passed the limits.
    OverLimit,
}

/// How large facts are, as the limits count it.
#[derive(Clone, Copy, Debug)]
struct Weight {
    size: Size,
    values: usize,
}

/// What a guest has told so far.
#[derive(Debug)]
pub(super) struct MergedFacts {
    value: Value,
    /// At least as much as `value` weighs: patches are added up, and only when
    /// the sum passes the limits is `value` weighed again. Most patches replace
    /// what is there, so this happens once in thousands of reports.
    bound: Weight,
}

impl Default for MergedFacts {
    fn default() -> Self {
        let value = Value::Object(Map::new());
        Self { bound: Weight::of(&value), value }
    }
}

impl MergedFacts {
    /// Takes `facts` as everything there is.
    pub(super) fn replace(&mut self, facts: &Value) -> Result<(), Rejected> {
        let mut fresh = Self::default();
        fresh.merge(facts)?;
        *self = fresh;
        Ok(())
    }

    /// Merges a patch. When it is rejected, nothing has changed.
    pub(super) fn merge(&mut self, patch: &Value) -> Result<(), Rejected> {
        if !patch.is_object() {
            return Err(Rejected::NotAnObject);
        }
        let added = Weight::of(patch);
        if !self.bound.plus(added).fits() {
            self.bound = Weight::of(&self.value);
        }
        let sum = self.bound.plus(added);
        if sum.fits() {
            merge_patch::apply(&mut self.value, patch);
            self.bound = sum;
            return Ok(());
        }
        // It may still fit, because a patch replaces and removes. Only facts
        // near the limits pay for the copy.
        let mut value = self.value.clone();
        merge_patch::apply(&mut value, patch);
        let bound = Weight::of(&value);
        if !bound.fits() {
            return Err(Rejected::OverLimit);
        }
        *self = Self { value, bound };
        Ok(())
    }

    /// The facts as far as they fit their types, and how many sections do not.
    pub(super) fn typed(&self) -> (Facts, u64) {
        let mut misfits = 0;
        let facts = Facts {
            os: self.section("os", &mut misfits),
            cpu: self.section("cpu", &mut misfits),
            memory: self.section("memory", &mut misfits),
            load: self.section("load", &mut misfits),
            uptime: self.section("uptime", &mut misfits),
            disks: self.section("disks", &mut misfits),
            filesystems: self.section("filesystems", &mut misfits),
            interfaces: self.section("interfaces", &mut misfits),
        };
        (facts, misfits)
    }

    fn section<'a, T: Deserialize<'a>>(&'a self, name: &str, misfits: &mut u64) -> Option<T> {
        let section = T::deserialize(self.value.get(name)?).ok();
        *misfits += u64::from(section.is_none());
        section
    }
}

impl Weight {
    fn of(value: &Value) -> Self {
        Self { size: merge_patch::measure(value), values: count_values(value) }
    }

    fn plus(self, other: Self) -> Self {
        let size = Size {
            bytes: self.size.bytes + other.size.bytes,
            keys: self.size.keys + other.size.keys,
        };
        Self { size, values: self.values + other.values }
    }

    fn fits(self) -> bool {
        self.size.bytes <= MAX_FACTS_BYTES
            && self.size.keys <= MAX_FACTS_KEYS
            && self.values <= MAX_FACTS_VALUES
    }
}

/// How many values there are, `value` itself and all nested ones. The codec's
/// limit on depth bounds the recursion.
fn count_values(value: &Value) -> usize {
    1 + match value {
        Value::Array(elements) => elements.iter().map(count_values).sum(),
        Value::Object(members) => members.values().map(count_values).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("os".to_owned()),
            Just("cpu".to_owned()),
            Just("online".to_owned()),
            Just("disks".to_owned()),
            Just("vda".to_owned()),
            Just("interfaces".to_owned()),
            Just("addresses".to_owned()),
            ".{0,4}",
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_guest_tells_nothing_breaks_and_no_null_stays(
            reports in prop::collection::vec((any::<bool>(), json_value()), 0..8),
        ) {
            let mut facts = MergedFacts::default();
            for (full, report) in reports {
                let told = if full { facts.replace(&report) } else { facts.merge(&report) };
                prop_assert_eq!(told.is_err(), !report.is_object());
                let weight = Weight::of(&facts.value);
                prop_assert!(weight.size.bytes <= facts.bound.size.bytes);
                prop_assert!(weight.size.keys <= facts.bound.size.keys);
                prop_assert!(weight.values <= facts.bound.values);
                let (typed, misfits) = facts.typed();
                prop_assert!(misfits <= 8);
                serde_json::to_string(&typed).unwrap();
            }
        }
    }

    #[test]
    fn a_section_that_does_not_fit_costs_only_itself() {
        let mut facts = MergedFacts::default();
        let told = json!({
            "cpu": {"online": 4, "model": "x"},
            "memory": {"total_bytes": "much"},
            "disks": 7,
            "unheard-of": {"a": 1},
        });
        facts.replace(&told).unwrap();
        let (typed, misfits) = facts.typed();
        assert_eq!(typed.cpu.unwrap().online, 4);
        assert!(typed.memory.is_none() && typed.disks.is_none());
        assert_eq!(misfits, 2);
    }

    #[test]
    fn a_patch_beyond_the_limits_changes_nothing() {
        let mut facts = MergedFacts::default();
        facts.replace(&json!({"a": "x".repeat(700_000)})).unwrap();
        let before = facts.value.clone();
        let long = json!({"b": "x".repeat(400_000)});
        assert_eq!(facts.merge(&long), Err(Rejected::OverLimit));
        let keys: Map<String, Value> =
            (0..=MAX_FACTS_KEYS).map(|key| (key.to_string(), json!(1))).collect();
        assert_eq!(facts.merge(&Value::Object(keys)), Err(Rejected::OverLimit));
        let elements = json!({"c": vec![0; MAX_FACTS_VALUES]});
        assert_eq!(facts.merge(&elements), Err(Rejected::OverLimit));
        assert_eq!(facts.value, before);
        // A patch that makes room fits although the sum does not.
        facts.merge(&json!({"a": null, "b": "x".repeat(900_000)})).unwrap();
        assert!(facts.value.get("a").is_none());
    }

    #[test]
    fn what_is_replaced_again_and_again_does_not_add_up() {
        let mut facts = MergedFacts::default();
        for round in 0..100 {
            facts.merge(&json!({"a": "x".repeat(100_000), "round": round})).unwrap();
        }
        assert_eq!(facts.value["round"], 99);
    }
}
