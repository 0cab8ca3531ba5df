//! The statements: rows of the state file from and to the types of the seam.
//!
//! What is read was as it was written, or it is an error; and no change ever
//! seals anew what was not.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::VmSpec;

use super::seal::{HOST, KEYS, OPERATIONS, VMS};
use super::sqlite::failure;
use super::{
    ENDED_OPERATIONS_PER_VM, IdempotencyKey, Inserted, REMEMBERED, StateChange, StoreError,
    VmRecord,
};

/// The host's row for its boot.
const BOOT_ID: &str = "boot_id";

/// All VMs, sorted by name.
pub fn vms(db: &Connection) -> Result<Vec<VmRecord>, StoreError> {
    let mut statement = db
        .prepare_cached(&format!(
            "SELECT {}, id, spec, machine_type, state, state_detail, created_at, state_changed_at
             FROM vms ORDER BY name",
            VMS.intact()
        ))
        .map_err(unread)?;
    let rows = statement.query_map([], |row| Ok(vm(row))).map_err(unread)?;
    rows.map(|row| row.map_err(unread)?).collect()
}

/// Adds a VM, or finds the one that the same request made before.
pub fn insert_vm(
    db: &Connection,
    record: &VmRecord,
    key: Option<&IdempotencyKey>,
) -> Result<Inserted, StoreError> {
    // A key from the future was written before the clock was set back.
    let now = record.created_at;
    let remembered = [(now - REMEMBERED).as_microsecond(), (now + REMEMBERED).as_microsecond()];
    db.prepare_cached("DELETE FROM idempotency WHERE created_us <= ?1 OR created_us >= ?2")
        .and_then(|mut s| s.execute(remembered))
        .map_err(unwritten)?;
    if let Some(before) = key.map(|key| made_before(db, key)).transpose()?.flatten() {
        return Ok(Inserted::Before(before));
    }
    let taken = db
        .prepare_cached("SELECT 1 FROM vms WHERE name = ?1")
        .and_then(|mut s| s.exists([&record.spec.name]))
        .map_err(unread)?;
    if taken {
        return Err(StoreError::NameTaken(record.spec.name.clone()));
    }
    let seal = VMS.seal_of("?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8");
    db.prepare_cached(&format!("INSERT INTO vms VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, {seal})"))
        .and_then(|mut s| {
            s.execute(params![
                record.id.to_string(),
                record.spec.name,
                json(&record.spec),
                record.machine_type,
                json(&record.state),
                record.state_detail,
                record.created_at.to_string(),
                record.state_changed_at.to_string(),
            ])
        })
        .map_err(unwritten)?;
    if let Some(key) = key {
        let created = record.created_at.as_microsecond();
        let seal = KEYS.seal_of("?1, ?2, ?3, ?4");
        db.prepare_cached(&format!("INSERT INTO idempotency VALUES (?1, ?2, ?3, ?4, {seal})"))
            .and_then(|mut s| {
                s.execute(params![key.key, key.body_hash, record.id.to_string(), created])
            })
            .map_err(unwritten)?;
    }
    Ok(Inserted::New)
}

/// Writes a VM's state and the operations that go with it.
pub fn change_state(db: &Connection, change: &StateChange) -> Result<(), StoreError> {
    let id = change.id.to_string();
    let seal = VMS.seal_of("id, name, spec, machine_type, ?2, ?3, created_at, ?4");
    let changed = db
        .prepare_cached(&format!(
            "UPDATE vms SET state = ?2, state_detail = ?3, state_changed_at = ?4, seal = {seal}
             WHERE id = ?1 AND {}",
            VMS.intact()
        ))
        .and_then(|mut s| {
            s.execute(params![id, json(&change.state), change.detail, change.at.to_string(),])
        })
        .map_err(unwritten)?;
    if changed == 0 {
        return Err(why_unchanged(db, change.id));
    }
    change.operations.iter().try_for_each(|operation| put_operation(db, operation))
}

/// Writes a VM's specification.
pub fn change_spec(db: &Connection, id: Uuid, spec: &VmSpec) -> Result<(), StoreError> {
    let seal = VMS
        .seal_of("id, name, ?2, machine_type, state, state_detail, created_at, state_changed_at");
    let changed = db
        .prepare_cached(&format!(
            "UPDATE vms SET spec = ?2, seal = {seal} WHERE id = ?1 AND name = ?3 AND {}",
            VMS.intact()
        ))
        .and_then(|mut s| s.execute(params![id.to_string(), json(spec), spec.name]))
        .map_err(unwritten)?;
    if changed == 0 { Err(why_unchanged(db, id)) } else { Ok(()) }
}

/// A VM's row that no change found is not there, or not as it was written.
fn why_unchanged(db: &Connection, id: Uuid) -> StoreError {
    let there = db
        .prepare_cached("SELECT 1 FROM vms WHERE id = ?1")
        .and_then(|mut s| s.exists([id.to_string()]));
    match there {
        Ok(true) => altered(VMS.name),
        Ok(false) => StoreError::NoSuchVm(id),
        Err(error) => unread(error),
    }
}

/// Forgets a VM and remembers how.
pub fn delete_vm(
    db: &Connection,
    id: Uuid,
    deletion: Option<&Operation>,
) -> Result<(), StoreError> {
    db.prepare_cached("DELETE FROM operations WHERE vm = ?1")
        .and_then(|mut s| s.execute([id.to_string()]))
        .map_err(unwritten)?;
    db.prepare_cached("DELETE FROM vms WHERE id = ?1")
        .and_then(|mut s| s.execute([id.to_string()]))
        .map_err(unwritten)?;
    let Some(deletion) = deletion else { return Ok(()) };
    // Deletions have no VM whose limit holds for them; time is their limit.
    let now = deletion.ended_at.unwrap_or(deletion.created_at);
    db.prepare_cached(
        "DELETE FROM operations WHERE (ended_us < ?1 OR ended_us > ?2)
         AND vm NOT IN (SELECT id FROM vms)",
    )
    .and_then(|mut s| {
        s.execute([(now - REMEMBERED).as_microsecond(), (now + REMEMBERED).as_microsecond()])
    })
    .map_err(unwritten)?;
    put_operation(db, deletion)
}

/// An operation by its id.
pub fn operation(db: &Connection, id: Uuid) -> Result<Option<Operation>, StoreError> {
    let intact = OPERATIONS.intact();
    let found = db
        .prepare_cached(&format!("SELECT {intact}, operation FROM operations WHERE id = ?1"))
        .and_then(|mut s| {
            s.query_row([id.to_string()], |row| Ok(written_operation(row))).optional()
        })
        .map_err(unread)?;
    found.transpose()
}

/// Operations that never ended, oldest first.
pub fn unfinished_operations(db: &Connection) -> Result<Vec<Operation>, StoreError> {
    let mut statement = db
        .prepare_cached(&format!(
            "SELECT {}, operation FROM operations WHERE ended_us IS NULL ORDER BY rowid",
            OPERATIONS.intact()
        ))
        .map_err(unread)?;
    let rows = statement.query_map([], |row| Ok(written_operation(row))).map_err(unread)?;
    rows.map(|row| row.map_err(unread)?).collect()
}

/// The boot of the host that was remembered.
pub fn last_boot(db: &Connection) -> Result<Option<String>, StoreError> {
    let found = db
        .prepare_cached(&format!("SELECT {}, value FROM host WHERE name = ?1", HOST.intact()))
        .and_then(|mut s| {
            s.query_row([BOOT_ID], |row| Ok((row.get::<_, bool>(0)?, row.get(1)?))).optional()
        })
        .map_err(unread)?;
    match found {
        Some((false, _)) => Err(altered(HOST.name)),
        found => Ok(found.map(|(_, boot)| boot)),
    }
}

/// Remembers the boot of the host.
pub fn remember_boot(db: &Connection, boot: &str) -> Result<(), StoreError> {
    db.prepare_cached(&format!(
        "INSERT INTO host VALUES (?1, ?2, {})
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, seal = excluded.seal",
        HOST.seal_of("?1, ?2")
    ))
    .and_then(|mut s| s.execute([BOOT_ID, boot]))
    .map_err(unwritten)?;
    Ok(())
}

/// Reads all that there is and says what makes no sense.
pub fn read_all(db: &Connection) -> Result<(), String> {
    let told = |error: StoreError| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    vms(db).map_err(told)?;
    let operations = || -> Result<(), StoreError> {
        let intact = OPERATIONS.intact();
        let mut statement =
            db.prepare(&format!("SELECT {intact}, operation FROM operations")).map_err(unread)?;
        let mut rows = statement.query_map([], |row| Ok(written_operation(row))).map_err(unread)?;
        rows.try_for_each(|row| row.map_err(unread)?.map(drop))
    };
    operations().map_err(told)
}

fn made_before(db: &Connection, key: &IdempotencyKey) -> Result<Option<Uuid>, StoreError> {
    let intact = KEYS.intact();
    let found: Option<(bool, String, String)> = db
        .prepare_cached(&format!("SELECT {intact}, body_hash, vm FROM idempotency WHERE key = ?1"))
        .and_then(|mut s| {
            s.query_row([&key.key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
        })
        .map_err(unread)?;
    match found {
        None => Ok(None),
        Some((false, _, _)) => Err(altered(KEYS.name)),
        Some((_, hash, _)) if hash != key.body_hash => Err(StoreError::KeyReused),
        Some((_, _, vm)) => vm.parse().map(Some).map_err(unfit),
    }
}

fn put_operation(db: &Connection, operation: &Operation) -> Result<(), StoreError> {
    // No OR REPLACE: it removes rows without their triggers.
    db.prepare_cached(&format!(
        "INSERT INTO operations VALUES (?1, ?2, ?3, ?4, ?5, {})
         ON CONFLICT (id) DO UPDATE SET vm = excluded.vm, ended_us = excluded.ended_us,
         created_us = excluded.created_us, operation = excluded.operation, seal = excluded.seal",
        OPERATIONS.seal_of("?1, ?2, ?3, ?4, ?5")
    ))
    .and_then(|mut s| {
        s.execute(params![
            operation.id.to_string(),
            operation.vm.to_string(),
            operation.ended_at.map(Timestamp::as_microsecond),
            operation.created_at.as_microsecond(),
            json(operation),
        ])
    })
    .map_err(unwritten)?;
    if operation.ended_at.is_none() {
        return Ok(());
    }
    // By the order in which they began, and not by the clock: when it was set
    // back, what ended just now would look like the oldest and go at once.
    db.prepare_cached(
        "DELETE FROM operations WHERE vm = ?1 AND ended_us IS NOT NULL AND rowid NOT IN
         (SELECT rowid FROM operations WHERE vm = ?1 AND ended_us IS NOT NULL
          ORDER BY rowid DESC LIMIT ?2)",
    )
    .and_then(|mut s| s.execute(params![operation.vm.to_string(), ENDED_OPERATIONS_PER_VM]))
    .map_err(unwritten)?;
    Ok(())
}

fn vm(row: &Row<'_>) -> Result<VmRecord, StoreError> {
    if !row.get::<_, bool>(0).map_err(unread)? {
        return Err(altered(VMS.name));
    }
    let text = |column| row.get::<_, String>(column).map_err(unread);
    Ok(VmRecord {
        id: text(1)?.parse().map_err(unfit)?,
        spec: parse(&text(2)?)?,
        machine_type: text(3)?,
        state: parse(&text(4)?)?,
        state_detail: row.get(5).map_err(unread)?,
        created_at: text(6)?.parse().map_err(unfit)?,
        state_changed_at: text(7)?.parse().map_err(unfit)?,
    })
}

fn written_operation(row: &Row<'_>) -> Result<Operation, StoreError> {
    if !row.get::<_, bool>(0).map_err(unread)? {
        return Err(altered(OPERATIONS.name));
    }
    parse(&row.get::<_, String>(1).map_err(unread)?)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types have no map keys but strings")
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(unfit)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn unread(error: rusqlite::Error) -> StoreError {
    failure("read", &error)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn unwritten(error: rusqlite::Error) -> StoreError {
    failure("written", &error)
}

/// A row that this program did not write, or not like that.
fn unfit(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Failed { doing: "understood", source: error.into() }
}

/// A row that is not what was written, since the file was checked at the start.
fn altered(table: &str) -> StoreError {
    StoreError::Failed {
        doing: "read",
        source: format!(
            "a row of {table} is not as it was written: the state file is damaged; restart the \
             daemon, which says what to do"
        )
        .into(),
    }
}
