//! One guest's merged facts: kept as the JSON that the guest told, within
//! limits, and shown as typed facts as far as they fit. Apart from the rest of
//! what is known of a guest because everything here is about hostile JSON.

use std::cell::RefCell;

use guest_protocol::facts::Facts;
use guest_protocol::limits::{
    MAX_FACTS_BYTES, MAX_FACTS_CONTAINERS, MAX_FACTS_KEYS, MAX_FACTS_VALUES,
};
use guest_protocol::merge_patch::{self, Size};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::packed;

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
pub(super) struct Weight {
    pub(super) size: Size,
    /// Values, array elements and the outermost included.
    pub(super) values: usize,
    /// How many of them hold others.
    containers: usize,
}

/// How much more memory than needed facts may keep, in bytes. Their length
/// changes a little with most reports, and to move them each time would leave
/// gaps all over the heap.
const MAX_SLACK_BYTES: usize = 512;

/// What stays of the memory in which a thread merges, in bytes: more than the
/// facts of a usual guest.
const MAX_MERGED_BYTES: usize = 64 * 1024;

/// What a guest has told so far.
#[derive(Debug)]
pub(super) struct MergedFacts {
    /// An object.
    packed: Vec<u8>,
    /// At least as much as the facts weigh: patches are added up, and only when
    /// the sum passes the limits are the facts weighed again. Most patches
    /// replace what is there, so this happens once in thousands of reports.
    bound: Weight,
}

thread_local! {
    /// Where patches are merged. One for a thread: most guests are silent at
    /// any moment.
    static MERGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Default for MergedFacts {
    fn default() -> Self {
        let nothing = Value::Object(Map::new());
        let mut packed = Vec::new();
        packed::merge(None, &nothing, &mut packed);
        Self { packed, bound: Weight::of(&nothing) }
    }
}

impl MergedFacts {
    /// Takes `facts`, which weigh `added`, as everything there is.
    pub(super) fn replace(&mut self, facts: &Value, added: Weight) -> Result<(), Rejected> {
        if !facts.is_object() {
            return Err(Rejected::NotAnObject);
        }
        MERGED.with_borrow_mut(|merged| {
            merged.clear();
            packed::merge(None, facts, merged);
            self.keep(merged, added)
        })
    }

    /// Merges a patch, which weighs `added`. When it is rejected, nothing has
    /// changed.
    pub(super) fn merge(&mut self, patch: &Value, added: Weight) -> Result<(), Rejected> {
        if !patch.is_object() {
            return Err(Rejected::NotAnObject);
        }
        MERGED.with_borrow_mut(|merged| {
            merged.clear();
            packed::merge(Some(&self.packed), patch, merged);
            self.keep(merged, self.bound.plus(added))
        })
    }

    /// Takes what was merged, which weighs at most `bound`.
    fn keep(&mut self, merged: &mut Vec<u8>, mut bound: Weight) -> Result<(), Rejected> {
        if !bound.fits() {
            // It may fit all the same, because a patch replaces and removes.
            bound = Weight::of(&packed::unpack(merged));
        }
        let fits = bound.fits();
        if fits {
            self.bound = bound;
            self.packed.clear();
            self.packed.shrink_to(merged.len() + MAX_SLACK_BYTES);
            self.packed.reserve_exact(merged.len());
            self.packed.extend_from_slice(merged);
        }
        merged.shrink_to(MAX_MERGED_BYTES);
        if fits { Ok(()) } else { Err(Rejected::OverLimit) }
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

    fn section<T: DeserializeOwned>(&self, name: &str, misfits: &mut u64) -> Option<T> {
        let section = T::deserialize(packed::member(&self.packed, name)?).ok();
        *misfits += u64::from(section.is_none());
        section
    }
}

impl Weight {
    pub(super) fn of(value: &Value) -> Self {
        let mut weight = Self { size: merge_patch::measure(value), values: 0, containers: 0 };
        weight.count(value);
        weight
    }

    /// Counts `value` and what it holds. The codec's limit on depth bounds the
    /// recursion.
    fn count(&mut self, value: &Value) {
        self.values += 1;
        match value {
            Value::Array(elements) => {
                self.containers += 1;
                elements.iter().for_each(|element| self.count(element));
            }
            Value::Object(members) => {
                self.containers += 1;
                members.values().for_each(|member| self.count(member));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn plus(self, other: Self) -> Self {
        let size = Size {
            bytes: self.size.bytes + other.size.bytes,
            keys: self.size.keys + other.size.keys,
        };
        Self {
            size,
            values: self.values + other.values,
            containers: self.containers + other.containers,
        }
    }

    fn fits(self) -> bool {
        self.size.bytes <= MAX_FACTS_BYTES
            && self.size.keys <= MAX_FACTS_KEYS
            && self.values <= MAX_FACTS_VALUES
            && self.containers <= MAX_FACTS_CONTAINERS
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

    fn replace(facts: &mut MergedFacts, told: &Value) -> Result<(), Rejected> {
        facts.replace(told, Weight::of(told))
    }

    fn merge(facts: &mut MergedFacts, patch: &Value) -> Result<(), Rejected> {
        facts.merge(patch, Weight::of(patch))
    }

    fn value(facts: &MergedFacts) -> Value {
        packed::unpack(&facts.packed)
    }

    proptest! {
        #[test]
        fn whatever_a_guest_tells_nothing_breaks_and_no_null_stays(
            reports in prop::collection::vec((any::<bool>(), json_value()), 0..8),
        ) {
            let mut facts = MergedFacts::default();
            for (full, report) in reports {
                let told = if full { replace(&mut facts, &report) } else { merge(&mut facts, &report) };
                prop_assert_eq!(told.is_err(), !report.is_object());
                let weight = Weight::of(&value(&facts));
                prop_assert!(weight.size.bytes <= facts.bound.size.bytes);
                prop_assert!(weight.size.keys <= facts.bound.size.keys);
                prop_assert!(weight.values <= facts.bound.values);
                prop_assert!(weight.containers <= facts.bound.containers);
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
        replace(&mut facts, &told).unwrap();
        let (typed, misfits) = facts.typed();
        assert_eq!(typed.cpu.unwrap().online, 4);
        assert!(typed.memory.is_none() && typed.disks.is_none());
        assert_eq!(misfits, 2);
    }

    #[test]
    fn a_patch_beyond_the_limits_changes_nothing() {
        let mut facts = MergedFacts::default();
        replace(&mut facts, &json!({"a": "x".repeat(700_000)})).unwrap();
        let before = value(&facts);
        let long = json!({"b": "x".repeat(400_000)});
        assert_eq!(merge(&mut facts, &long), Err(Rejected::OverLimit));
        let keys: Map<String, Value> =
            (0..=MAX_FACTS_KEYS).map(|key| (key.to_string(), json!(1))).collect();
        assert_eq!(merge(&mut facts, &Value::Object(keys)), Err(Rejected::OverLimit));
        let elements = json!({"c": vec![0; MAX_FACTS_VALUES]});
        assert_eq!(merge(&mut facts, &elements), Err(Rejected::OverLimit));
        let holders = json!({"d": vec![json!({}); MAX_FACTS_CONTAINERS]});
        assert_eq!(merge(&mut facts, &holders), Err(Rejected::OverLimit));
        assert_eq!(value(&facts), before);
        // A patch that makes room fits although the sum does not.
        merge(&mut facts, &json!({"a": null, "b": "x".repeat(900_000)})).unwrap();
        assert!(value(&facts).get("a").is_none());
    }

    #[test]
    fn what_is_replaced_again_and_again_does_not_add_up() {
        let mut facts = MergedFacts::default();
        for round in 0..100 {
            merge(&mut facts, &json!({"a": "x".repeat(100_000), "round": round})).unwrap();
        }
        assert_eq!(value(&facts)["round"], 99);
    }
}
