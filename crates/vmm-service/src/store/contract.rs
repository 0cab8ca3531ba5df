//! What every store promises, tested against each.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;
use vmm_api::operation::{Operation, OperationKind, OperationState};
use vmm_api::vm::{DiskFormat, DiskSpec, Network, NicSpec, State, VmSpec};

use super::*;

fn record(name: &str) -> VmRecord {
    let spec = serde_json::json!({"name": name, "vcpus": 1, "memory_mib": 64});
    VmRecord {
        id: Uuid::new_v4(),
        spec: serde_json::from_value::<VmSpec>(spec).unwrap(),
        machine_type: "pc-q35-7.2".to_owned(),
        state: State::Created,
        state_detail: None,
        created_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        state_changed_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
    }
}

fn operation(vm: Uuid, seconds: i64, ended: bool) -> Operation {
    let created_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
    Operation {
        id: Uuid::new_v4(),
        vm,
        kind: OperationKind::Start,
        state: if ended { OperationState::Succeeded } else { OperationState::Running },
        progress: 0.5,
        error: None,
        created_at,
        ended_at: ended.then_some(created_at),
    }
}

fn change(id: Uuid, state: State, operations: Vec<Operation>) -> StateChange {
    let detail = Some("because".to_owned());
    StateChange { id, state, detail, at: Timestamp::UNIX_EPOCH, operations }
}

async fn keeps_vms_sorted_and_names_unique(store: &dyn Store) {
    let (b, a) = (record("b"), record("a"));
    assert_eq!(store.insert_vm(&b, None).await.unwrap(), Inserted::New);
    assert_eq!(store.insert_vm(&a, None).await.unwrap(), Inserted::New);
    let again = store.insert_vm(&record("a"), None).await;
    assert!(matches!(again, Err(StoreError::NameTaken(name)) if name == "a"));
    assert_eq!(store.vms().await.unwrap(), [a, b]);
}

/// Written out without `..`: a field that comes later does not compile before it
/// stands here.
async fn keeps_every_field_of_a_specification(store: &dyn Store) {
    let text = |word: &str| Some(word.to_owned());
    let spec = VmSpec {
        name: "whole".to_owned(),
        vcpus: 3,
        memory_mib: 777,
        kernel: text("/boot/vmlinuz"),
        initrd: text("/boot/initrd"),
        cmdline: text("console=ttyS0 name=\"a,b\" \u{e9}"),
        disks: vec![DiskSpec {
            path: "/srv/a.qcow2".to_owned(),
            format: DiskFormat::Qcow2,
            read_only: true,
        }],
        nics: vec![NicSpec { network: Network::Passt, mac: text("02:00:00:00:00:07") }],
        labels: [("team".to_owned(), "storage".to_owned())].into(),
        autostart: true,
    };
    let whole = VmRecord {
        spec,
        state: State::Paused,
        state_detail: text("why"),
        machine_type: "pc-q35-8.1".to_owned(),
        ..record("whole")
    };
    store.insert_vm(&whole, None).await.unwrap();
    assert_eq!(store.vms().await.unwrap(), [whole]);
}

async fn changes_state_with_its_operations(store: &dyn Store) {
    let vm = record("vm");
    store.insert_vm(&vm, None).await.unwrap();
    let running = operation(vm.id, 5, false);
    store.change_state(&change(vm.id, State::Starting, vec![running.clone()])).await.unwrap();
    let kept = store.vms().await.unwrap().remove(0);
    assert_eq!((kept.state, kept.state_detail.as_deref()), (State::Starting, Some("because")));
    assert_eq!(kept.state_changed_at, Timestamp::UNIX_EPOCH);
    assert_eq!(kept.created_at, vm.created_at);
    assert_eq!(store.unfinished_operations().await.unwrap(), std::slice::from_ref(&running));
    let mut ended = running.clone();
    ended.state = OperationState::Failed;
    ended.error = Some("no".to_owned());
    ended.ended_at = Some(Timestamp::UNIX_EPOCH);
    store.change_state(&change(vm.id, State::Failed, vec![ended.clone()])).await.unwrap();
    assert_eq!(store.unfinished_operations().await.unwrap(), []);
    assert_eq!(store.operation(running.id).await.unwrap(), Some(ended));
    assert_eq!(store.operation(Uuid::new_v4()).await.unwrap(), None);
}

async fn changes_nothing_of_a_vm_that_is_not_there(store: &dyn Store) {
    let id = Uuid::new_v4();
    let unfinished = operation(id, 1, false);
    let outcome = store.change_state(&change(id, State::Running, vec![unfinished.clone()])).await;
    assert!(matches!(outcome, Err(StoreError::NoSuchVm(missing)) if missing == id));
    assert_eq!(store.operation(unfinished.id).await.unwrap(), None);
}

async fn changes_a_specification_and_nothing_else(store: &dyn Store) {
    let mut vm = record("vm");
    store.insert_vm(&vm, None).await.unwrap();
    vm.spec.autostart = true;
    store.change_spec(vm.id, &vm.spec).await.unwrap();
    assert_eq!(store.vms().await.unwrap(), std::slice::from_ref(&vm));
    let missing = store.change_spec(Uuid::new_v4(), &vm.spec).await;
    assert!(matches!(missing, Err(StoreError::NoSuchVm(_))));
}

async fn forgets_a_deleted_vm_but_not_its_deletion(store: &dyn Store) {
    let vm = record("vm");
    let key = IdempotencyKey { key: "k".to_owned(), body_hash: "h".to_owned() };
    store.insert_vm(&vm, Some(&key)).await.unwrap();
    let start = operation(vm.id, 1, true);
    store.change_state(&change(vm.id, State::Stopped, vec![start.clone()])).await.unwrap();
    let deletion = operation(vm.id, 2, true);
    store.delete_vm(vm.id, Some(&deletion)).await.unwrap();
    store.delete_vm(vm.id, Some(&deletion)).await.unwrap();
    assert_eq!(store.vms().await.unwrap(), []);
    assert_eq!(store.operation(start.id).await.unwrap(), None);
    assert_eq!(store.operation(deletion.id).await.unwrap(), Some(deletion));
    assert_eq!(store.insert_vm(&record("vm"), Some(&key)).await.unwrap(), Inserted::New);
}

async fn answers_a_repeated_creation_with_the_first(store: &dyn Store) {
    let first = record("vm");
    let key = IdempotencyKey { key: "k".to_owned(), body_hash: "h".to_owned() };
    store.insert_vm(&first, Some(&key)).await.unwrap();
    let again = store.insert_vm(&record("vm"), Some(&key)).await.unwrap();
    assert_eq!(again, Inserted::Before(first.id));
    let other = IdempotencyKey { body_hash: "other".to_owned(), ..key.clone() };
    let reused = store.insert_vm(&record("other"), Some(&other)).await;
    assert!(matches!(reused, Err(StoreError::KeyReused)));
    let mut late = record("late");
    late.created_at = first.created_at + REMEMBERED;
    assert_eq!(store.insert_vm(&late, Some(&key)).await.unwrap(), Inserted::New);
}

async fn keeps_only_the_newest_operations_of_a_vm(store: &dyn Store) {
    let vm = record("vm");
    store.insert_vm(&vm, None).await.unwrap();
    let first = operation(vm.id, 0, true);
    store.change_state(&change(vm.id, State::Running, vec![first.clone()])).await.unwrap();
    for seconds in 1..=64 {
        let next = operation(vm.id, seconds, true);
        store.change_state(&change(vm.id, State::Running, vec![next])).await.unwrap();
    }
    assert_eq!(store.operation(first.id).await.unwrap(), None);
}

async fn a_clock_that_is_set_back_forgets_nothing_new(store: &dyn Store) {
    let year = 365 * 24 * 3600;
    let mut vm = record("vm");
    let key = IdempotencyKey { key: "k".to_owned(), body_hash: "h".to_owned() };
    vm.created_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(year);
    store.insert_vm(&vm, Some(&key)).await.unwrap();
    for seconds in 0..i64::from(ENDED_OPERATIONS_PER_VM) {
        let future = operation(vm.id, year + seconds, true);
        store.change_state(&change(vm.id, State::Running, vec![future])).await.unwrap();
    }
    let now = operation(vm.id, 0, true);
    let under_way = operation(vm.id, 1, false);
    let operations = vec![now.clone(), under_way.clone()];
    store.change_state(&change(vm.id, State::Running, operations)).await.unwrap();
    assert_eq!(store.operation(now.id).await.unwrap(), Some(now));
    assert_eq!(store.unfinished_operations().await.unwrap(), [under_way]);
    let mut hour = record("hour");
    hour.created_at = vm.created_at - SignedDuration::from_hours(1);
    assert_eq!(store.insert_vm(&hour, Some(&key)).await.unwrap(), Inserted::Before(vm.id));
    let mut past = record("past");
    past.created_at = Timestamp::UNIX_EPOCH;
    assert_eq!(store.insert_vm(&past, Some(&key)).await.unwrap(), Inserted::New);
}

async fn remembers_the_last_boot(store: &dyn Store) {
    assert_eq!(store.last_boot().await.unwrap(), None);
    for boot in ["one", "two", "two"] {
        store.remember_boot(boot).await.unwrap();
        assert_eq!(store.last_boot().await.unwrap().as_deref(), Some(boot));
    }
}

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&crate::store::MemoryStore::default()).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("state.db");
                super::$promise(&crate::store::SqliteStore::open(&path).unwrap()).await;
            })*
        }
    };
}

contract!(
    keeps_vms_sorted_and_names_unique,
    keeps_every_field_of_a_specification,
    changes_state_with_its_operations,
    changes_nothing_of_a_vm_that_is_not_there,
    changes_a_specification_and_nothing_else,
    forgets_a_deleted_vm_but_not_its_deletion,
    answers_a_repeated_creation_with_the_first,
    keeps_only_the_newest_operations_of_a_vm,
    a_clock_that_is_set_back_forgets_nothing_new,
    remembers_the_last_boot,
);

#[tokio::test]
async fn what_sqlite_acknowledged_is_there_after_a_copy_of_the_files_in_mid_flight() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("state.db")).unwrap();
    let vm = record("vm");
    store.insert_vm(&vm, None).await.unwrap();
    // What a power cut would leave: the file and its journal as they are now,
    // with the store still open.
    let after = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-journal"] {
        std::fs::copy(folder.path().join(name), after.path().join(name)).unwrap();
    }
    let reopened = SqliteStore::open(&after.path().join("state.db")).unwrap();
    assert_eq!(reopened.vms().await.unwrap(), [vm]);
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = SqliteStore::open(&path).unwrap();
    let kept = record("kept");
    store.insert_vm(&kept, None).await.unwrap();
    store.limit_pages_for_test(0).await;
    let mut large = record("large");
    large.spec.cmdline = Some("x".repeat(1 << 20));
    let outcome = store.insert_vm(&large, None).await;
    assert!(matches!(outcome, Err(StoreError::Full(_))), "{outcome:?}");
    assert_eq!(store.vms().await.unwrap(), std::slice::from_ref(&kept));
    store.limit_pages_for_test(1 << 20).await;
    store.insert_vm(&large, None).await.unwrap();
    drop(store);
    let reopened = SqliteStore::open(&path).unwrap();
    assert_eq!(reopened.vms().await.unwrap(), [kept, large]);
}
