//! Bytes that flip and files that are cut short, at any place: opening the state
//! refuses with what to do, or finds exactly what was written.

use std::fmt::Write as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use rusqlite::types::Value;
use uuid::Uuid;
use vmm_api::operation::{Operation, OperationKind, OperationState};
use vmm_api::vm::State;

use super::seal::ALL;
use super::{IdempotencyKey, StateChange, VmRecord, schema, tables};

/// How often each way of ending is wounded. `cargo xtask soak state-damage` does
/// the same to the built daemon at length.
const ROUNDS: usize = 60;

/// The files of a store by name.
type Image = Vec<(String, Vec<u8>)>;

fn record(n: u128) -> VmRecord {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(n.try_into().unwrap());
    let cmdline = "console=ttyS0 ".repeat(usize::try_from(n).unwrap() * 9);
    let spec = serde_json::json!({
        "name": format!("vm{n}"), "vcpus": 1, "memory_mib": 64, "cmdline": cmdline,
    });
    VmRecord {
        id: Uuid::from_u128(n),
        spec: serde_json::from_value(spec).unwrap(),
        machine_type: "pc-q35-7.2".to_owned(),
        state: State::Created,
        state_detail: None,
        created_at: at,
        state_changed_at: at,
    }
}

fn start(n: u128) -> StateChange {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(n.try_into().unwrap());
    let operation = Operation {
        id: Uuid::from_u128(1000 + n),
        vm: Uuid::from_u128(n),
        kind: OperationKind::Start,
        state: OperationState::Running,
        progress: 0.5,
        error: None,
        created_at: at,
        ended_at: n.is_multiple_of(2).then_some(at),
    };
    let (id, detail) = (operation.vm, Some("because".to_owned()));
    StateChange { id, state: State::Running, detail, at, operations: vec![operation] }
}

fn write(db: &Connection, n: u128) {
    let key = IdempotencyKey { key: format!("key{n}"), body_hash: "h".to_owned() };
    tables::insert_vm(db, &record(n), Some(&key)).unwrap();
    tables::change_state(db, &start(n)).unwrap();
}

/// Some VMs, one of them deleted again, so that there are free pages as well.
fn written(path: &Path) -> Connection {
    let db = schema::open(path).unwrap();
    for n in 1..=12 {
        write(&db, n);
    }
    tables::delete_vm(&db, Uuid::from_u128(12), None).unwrap();
    tables::remember_boot(&db, "a boot").unwrap();
    db
}

/// Every value of every row.
fn everything(db: &Connection) -> String {
    let mut told = String::new();
    for table in ALL {
        let sql = format!("SELECT {} FROM {} ORDER BY 1", table.columns, table.name);
        let mut statement = db.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<Value> = (0..columns).map(|n| row.get(n).unwrap()).collect();
            writeln!(told, "{} {values:?}", table.name).unwrap();
        }
    }
    told
}

fn image(folder: &Path) -> Image {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    let mut image: Image = std::fs::read_dir(folder).unwrap().map(entry).collect();
    image.sort();
    image
}

/// A folder in memory where there is one: thousands of files are flushed here,
/// and none has to survive a power cut.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens a copy of the files. The state is read, told, written to and read once
/// more.
fn open(image: &Image) -> Result<String, String> {
    let folder = folder();
    for (name, bytes) in image {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let path = folder.path().join("state.db");
    let db = schema::open(&path).map_err(|error| error.to_string())?;
    let found = everything(&db);
    write(&db, 99);
    tables::delete_vm(&db, Uuid::from_u128(99), None).unwrap();
    drop(db);
    let again = schema::open(&path).expect("a file that was taken can be written to");
    assert_eq!(everything(&again), found);
    Ok(found)
}

/// Wounds the files again and again. `either` is what may be read from them.
fn wound(image: &Image, either: &[&str]) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut refused, mut read) = (0, 0);
    for round in 0..ROUNDS {
        for (index, (name, bytes)) in image.iter().enumerate().filter(|(_, (_, b))| !b.is_empty()) {
            let mut wounded = image.clone();
            let at = random.usize(..bytes.len());
            let what = if round % 4 == 0 {
                wounded[index].1.truncate(at);
                format!("{name} cut to {at} bytes, seed {seed}")
            } else {
                let mask = random.u8(1..);
                wounded[index].1[at] ^= mask;
                format!("byte {at} of {name} flipped by {mask:#04x}, seed {seed}")
            };
            match open(&wounded) {
                Ok(found) => {
                    assert!(either.contains(&found.as_str()), "{what}: it reads otherwise");
                    read += 1;
                }
                Err(said) => {
                    assert!(said.contains("restore"), "{what}: no word of what to do: {said}");
                    refused += 1;
                }
            }
        }
    }
    println!("{refused} refused, {read} read as they were written");
    assert!(refused > 0, "something must matter");
}

#[test]
fn a_wounded_file_after_a_clean_end_is_refused_or_read_as_it_was() {
    let folder = folder();
    let db = written(&folder.path().join("state.db"));
    let expected = everything(&db);
    drop(db);
    let image = image(folder.path());
    assert_eq!(open(&image).as_ref(), Ok(&expected));
    wound(&image, &[&expected]);
}

#[test]
fn a_wounded_file_after_a_kill_is_refused_or_read_as_it_was() {
    let folder = folder();
    let db = written(&folder.path().join("state.db"));
    let expected = everything(&db);
    let image = image(folder.path());
    assert_eq!(image.len(), 2, "the file, and its journal that stays behind");
    assert_eq!(open(&image).as_ref(), Ok(&expected));
    wound(&image, &[&expected]);
    let lost: Image = image.into_iter().filter(|(name, _)| name != "state.db").collect();
    assert!(open(&lost).unwrap_err().contains("is missing"));
}

/// Killed while a commit wrote its pages, which it does in their order: the
/// journal takes back those that were written.
#[test]
fn a_wounded_file_with_a_journal_to_play_back_is_refused_or_read_as_it_was() {
    let folder = folder();
    let path = folder.path().join("state.db");
    let db = written(&path);
    let before = everything(&db);
    let old = std::fs::read(&path).unwrap();
    // Pages that leave the cache early bring the journal to the disk.
    db.pragma_update(None, "cache_spill", 1).unwrap();
    db.pragma_update(None, "cache_size", 1).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in (1..=11).chain(1..=11) {
        let changed = StateChange { state: State::Paused, operations: Vec::new(), ..start(n) };
        tables::change_state(&db, &changed).unwrap();
    }
    let journal = std::fs::read(folder.path().join("state.db-journal")).unwrap();
    db.execute_batch("COMMIT").unwrap();
    let after = everything(&db);
    let new = std::fs::read(&path).unwrap();
    assert_eq!(old.len(), new.len(), "no page was added");
    let pages = new.len() / 4096;
    for done in [pages / 4, pages / 2, pages] {
        let file = [&new[..done * 4096], &old[done * 4096..]].concat();
        let image =
            vec![("state.db".to_owned(), file), ("state.db-journal".to_owned(), journal.clone())];
        assert!(open(&image).unwrap() == before, "{done} of {pages} pages were written");
        wound(&image, &[&before, &after]);
    }
}
