//! Whoever goes from page to page gets each VM once, whatever happens on the
//! way.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use vmm_api::operation::OperationState;

use super::*;
use crate::vm::Request;
use crate::vm::driver_tests::Daemon;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

struct Fleet {
    daemon: Daemon,
    context: Context,
}

impl Fleet {
    async fn new() -> Self {
        let daemon = Daemon::new().await;
        let (registry, hub) = (daemon.registry.clone(), daemon.hub.clone());
        let events = daemon.events.clone();
        let context = Context::new(registry, hub, events, CancellationToken::new());
        Self { daemon, context }
    }

    async fn create(&self, name: &str, memory_mib: u64) -> Uuid {
        let kernel = self.daemon.folder.path().join("kernel");
        std::fs::write(&kernel, "a kernel").unwrap();
        let raw = json!({"name": name, "vcpus": 1, "memory_mib": memory_mib, "kernel": kernel});
        let spec = serde_json::from_value(raw).unwrap();
        self.context.registry.create(spec, None).await.unwrap().id
    }

    /// Whether it was granted; returns when it is done.
    async fn request(&self, id: Uuid, request: Request) -> bool {
        let registry = &self.context.registry;
        let Ok(operation) = registry.request(id, request).await else { return false };
        let ended = registry.wait_operation(operation.id, LIMIT).await.unwrap();
        ended.is_none_or(|ended| ended.state == OperationState::Succeeded)
    }

    fn page(&self, query: &[(&str, &str)]) -> VmList {
        page(&self.context, &asked(query).unwrap()).unwrap()
    }
}

fn asked(query: &[(&str, &str)]) -> Result<Asked> {
    let owned = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Asked::parse(owned.collect())
}

/// What happens between two pages.
#[derive(Clone, Debug)]
enum Meanwhile {
    Create(u8),
    Delete(usize),
    Start(usize),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        any::<u8>().prop_map(Meanwhile::Create),
        (0usize..40).prop_map(Meanwhile::Delete),
        (0usize..40).prop_map(Meanwhile::Start),
    ]
}

fn sorts() -> impl Strategy<Value = Sort> {
    (proptest::sample::select(SortKey::ALL.to_vec()), any::<bool>())
        .prop_map(|(key, descending)| Sort { key, descending })
}

async fn walk(names: BTreeSet<u8>, sort: Sort, limit: usize, turns: Vec<Vec<Meanwhile>>) {
    let fleet = Fleet::new().await;
    let mut present = Vec::new();
    for name in names {
        let id = fleet.create(&format!("vm-{name:03}"), 64 + u64::from(name % 4)).await;
        present.push(id);
    }
    let mut stayed = present.clone();
    let (limit, sort) = (limit.to_string(), sort.to_string());
    let mut turns = turns.into_iter();
    let mut cursor: Option<String> = None;
    let mut given: HashMap<Uuid, usize> = HashMap::new();
    loop {
        let mut query = vec![("limit", limit.as_str()), ("sort", sort.as_str())];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = fleet.page(&query);
        assert!(page.vms.len() <= limit.parse().unwrap());
        assert_eq!(page.total, present.len() as u64);
        for vm in &page.vms {
            *given.entry(vm.id).or_default() += 1;
        }
        let Some(next) = page.next_cursor else { break };
        cursor = Some(next);
        for event in turns.next().unwrap_or_default() {
            match event {
                Meanwhile::Create(name) => {
                    let spec = format!("new-{name:03}");
                    if fleet.context.registry.find(&spec).is_none() {
                        present.push(fleet.create(&spec, 64).await);
                    }
                }
                Meanwhile::Delete(index) if !present.is_empty() => {
                    let id = present[index % present.len()];
                    if fleet.request(id, Request::Delete).await {
                        gone(&fleet, id).await;
                        present.retain(|other| *other != id);
                        stayed.retain(|other| *other != id);
                    }
                }
                Meanwhile::Start(index) if !present.is_empty() => {
                    fleet.request(present[index % present.len()], Request::Start).await;
                }
                Meanwhile::Delete(_) | Meanwhile::Start(_) => {}
            }
        }
    }
    for id in &stayed {
        assert_eq!(given.get(id), Some(&1), "a VM that stayed");
    }
    assert!(given.values().all(|times| *times == 1), "{given:?}");
}

/// A driver leaves the registry a moment after its VM is deleted.
async fn gone(fleet: &Fleet, id: Uuid) {
    let left = async {
        while fleet.context.registry.vm(id).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, left).await.expect("the VM is deleted");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_walk_gives_each_vm_that_stays_once(
        names in proptest::collection::btree_set(any::<u8>(), 0..24),
        sort in sorts(),
        limit in 1usize..7,
        turns in proptest::collection::vec(proptest::collection::vec(meanwhile(), 0..4), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(walk(names, sort, limit, turns));
    }

    #[test]
    fn no_text_makes_a_cursor_by_chance(text in "[0-9a-f]{0,64}|\\PC{0,32}") {
        if let Err(error) = asked(&[("cursor", &text)]) {
            prop_assert_eq!(error.0.errors[0].field.as_str(), "cursor");
        } else {
            prop_assert!(Cursor::decode(&text).is_some());
        }
    }

    #[test]
    fn a_cursor_comes_back_as_it_was(rank in any::<i64>(), name in "[a-z0-9.-]{1,63}") {
        let cursor =
            Cursor { v: VERSION, sort: "name".to_owned(), place: Place::After { rank, name } };
        prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
    }
}

#[tokio::test]
async fn a_cursor_of_another_form_or_another_order_is_refused() {
    let fleet = Fleet::new().await;
    for name in ["a", "b", "c"] {
        fleet.create(name, 64).await;
    }
    let old = Cursor {
        v: VERSION + 1,
        sort: "name".to_owned(),
        place: Place::In { order: Uuid::nil(), from: 0 },
    };
    assert!(asked(&[("cursor", &old.encode())]).is_err());
    let cursor = fleet.page(&[("limit", "1"), ("sort", "-state")]).next_cursor.unwrap();
    let error = asked(&[("cursor", &cursor)]).err().unwrap();
    assert!(error.0.detail.contains("a list with sort=-state"), "{}", error.0.detail);
    // Others ask for so many lists that this one is forgotten.
    for _ in 0..MOST_ORDERS {
        fleet.page(&[("limit", "1"), ("sort", "state")]);
    }
    let asked = asked(&[("cursor", &cursor), ("sort", "-state")]).unwrap();
    let error = page(&fleet.context, &asked).unwrap_err();
    assert!(error.0.detail.contains("begin again without it"), "{}", error.0.detail);
}

#[tokio::test]
async fn an_order_that_is_walked_through_outlives_those_that_are_not() {
    let fleet = Fleet::new().await;
    for name in ["a", "b", "c", "d"] {
        fleet.create(name, 64).await;
    }
    let mut query = vec![("limit", "1"), ("sort", "state")];
    let first = fleet.page(&query).next_cursor.unwrap();
    for _ in 0..2 * MOST_ORDERS {
        fleet.page(&[("limit", "1"), ("sort", "state")]);
        query.truncate(2);
        query.push(("cursor", &first));
        assert_eq!(fleet.page(&query).vms[0].spec.name, "b");
    }
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_too() {
    let fleet = Fleet::new().await;
    let long = "x".repeat(MAX_PAGE_BYTES / 2);
    for name in ["a", "b", "c"] {
        let raw = json!({"name": name, "vcpus": 1, "memory_mib": 64, "cmdline": long});
        let spec = serde_json::from_value(raw).unwrap();
        fleet.context.registry.create(spec, None).await.unwrap();
    }
    for sort in ["name", "state"] {
        let first = fleet.page(&[("sort", sort)]);
        assert_eq!(first.vms.len(), 2);
        let cursor = first.next_cursor.unwrap();
        let last = fleet.page(&[("sort", sort), ("cursor", &cursor)]);
        assert_eq!((last.vms.len(), last.next_cursor), (1, None));
    }
}

#[tokio::test]
async fn ten_thousand_vms_come_once_each_and_in_order() {
    const COUNT: usize = 10_000;
    let fleet = Fleet::new().await;
    let spec = fleet.daemon.spec("any");
    for number in 0..COUNT {
        let mut spec = spec.clone();
        // Not in the order of their creation.
        spec.name = format!("vm-{:05}", number * 7919 % COUNT);
        spec.labels.insert("rack".to_owned(), (number % 40).to_string());
        fleet.context.registry.create(spec, None).await.unwrap();
    }
    let page = fleet.page(&[("limit", "100"), ("name", "vm-0?3*"), ("label", "rack:7")]);
    let names: Vec<&str> = page.vms.iter().map(|vm| vm.spec.name.as_str()).collect();
    let fits = |number: &usize| {
        let name = format!("vm-{number:05}");
        name.starts_with("vm-0") && name[5..].starts_with('3')
    };
    let expected: BTreeSet<String> = (0..COUNT)
        .filter(|number| number % 40 == 7)
        .map(|number| number * 7919 % COUNT)
        .filter(fits)
        .map(|number| format!("vm-{number:05}"))
        .collect();
    assert_eq!(names, Vec::from_iter(&expected));
    assert_eq!((page.total, page.matched), (COUNT as u64, expected.len() as u64));
    for sort in ["name", "-name", "-created_at", "problem"] {
        let mut all: Vec<String> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("limit", "999"), ("sort", sort)];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = fleet.page(&query);
            all.extend(page.vms.into_iter().map(|vm| vm.spec.name));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let mut expected: Vec<String> = (0..COUNT).map(|n| format!("vm-{n:05}")).collect();
        match sort {
            "-name" => expected.reverse(),
            "-created_at" => {
                all.sort_unstable();
            }
            _ => {}
        }
        assert_eq!(all, expected, "{sort}");
    }
}
