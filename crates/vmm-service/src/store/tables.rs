//! The statements: rows of the state file from and to the types of the seam.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vmm_api::operation::Operation;

use super::sqlite::failure;
use super::{
    ENDED_OPERATIONS_PER_VM, IdempotencyKey, Inserted, REMEMBERED, StateChange, StoreError,
    VmRecord,
};

/// All VMs, sorted by name.
pub fn vms(db: &Connection) -> Result<Vec<VmRecord>, StoreError> {
    let mut statement = db
        .prepare_cached(
            "SELECT id, spec, machine_type, state, state_detail, created_at, state_changed_at
             FROM vms ORDER BY name",
        )
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
    let horizon = (record.created_at - REMEMBERED).as_microsecond();
    db.prepare_cached("DELETE FROM idempotency WHERE created_us <= ?1")
        .and_then(|mut s| s.execute([horizon]))
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
    db.prepare_cached("INSERT INTO vms VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
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
        db.prepare_cached("INSERT INTO idempotency VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut s| {
                s.execute(params![key.key, key.body_hash, record.id.to_string(), created])
            })
            .map_err(unwritten)?;
    }
    Ok(Inserted::New)
}

/// Writes a VM's state and the operations that go with it.
pub fn change_state(db: &Connection, change: &StateChange) -> Result<(), StoreError> {
    let changed = db
        .prepare_cached(
            "UPDATE vms SET state = ?2, state_detail = ?3, state_changed_at = ?4 WHERE id = ?1",
        )
        .and_then(|mut s| {
            s.execute(params![
                change.id.to_string(),
                json(&change.state),
                change.detail,
                change.at.to_string(),
            ])
        })
        .map_err(unwritten)?;
    if changed == 0 {
        return Err(StoreError::NoSuchVm(change.id));
    }
    change.operations.iter().try_for_each(|operation| put_operation(db, operation))
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
        "DELETE FROM operations WHERE ended_us < ?1 AND vm NOT IN (SELECT id FROM vms)",
    )
    .and_then(|mut s| s.execute([(now - REMEMBERED).as_microsecond()]))
    .map_err(unwritten)?;
    put_operation(db, deletion)
}

/// An operation by its id.
pub fn operation(db: &Connection, id: Uuid) -> Result<Option<Operation>, StoreError> {
    let found: Option<String> = db
        .prepare_cached("SELECT operation FROM operations WHERE id = ?1")
        .and_then(|mut s| s.query_row([id.to_string()], |row| row.get(0)).optional())
        .map_err(unread)?;
    found.map(|text| parse(&text)).transpose()
}

/// Operations that never ended, oldest first.
pub fn unfinished_operations(db: &Connection) -> Result<Vec<Operation>, StoreError> {
    let mut statement = db
        .prepare_cached(
            "SELECT operation FROM operations WHERE ended_us IS NULL ORDER BY created_us",
        )
        .map_err(unread)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(unread)?;
    rows.map(|row| parse(&row.map_err(unread)?)).collect()
}

fn made_before(db: &Connection, key: &IdempotencyKey) -> Result<Option<Uuid>, StoreError> {
    let found: Option<(String, String)> = db
        .prepare_cached("SELECT body_hash, vm FROM idempotency WHERE key = ?1")
        .and_then(|mut s| s.query_row([&key.key], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(unread)?;
    match found {
        None => Ok(None),
        Some((hash, _)) if hash != key.body_hash => Err(StoreError::KeyReused),
        Some((_, vm)) => vm.parse().map(Some).map_err(unfit),
    }
}

fn put_operation(db: &Connection, operation: &Operation) -> Result<(), StoreError> {
    db.prepare_cached("INSERT OR REPLACE INTO operations VALUES (?1, ?2, ?3, ?4, ?5)")
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
    db.prepare_cached(
        "DELETE FROM operations WHERE vm = ?1 AND ended_us IS NOT NULL AND id NOT IN
         (SELECT id FROM operations WHERE vm = ?1 AND ended_us IS NOT NULL
          ORDER BY ended_us DESC, id DESC LIMIT ?2)",
    )
    .and_then(|mut s| s.execute(params![operation.vm.to_string(), ENDED_OPERATIONS_PER_VM]))
    .map_err(unwritten)?;
    Ok(())
}

fn vm(row: &Row<'_>) -> Result<VmRecord, StoreError> {
    let text = |column| row.get::<_, String>(column).map_err(unread);
    Ok(VmRecord {
        id: text(0)?.parse().map_err(unfit)?,
        spec: parse(&text(1)?)?,
        machine_type: text(2)?,
        state: parse(&text(3)?)?,
        state_detail: row.get(4).map_err(unread)?,
        created_at: text(5)?.parse().map_err(unfit)?,
        state_changed_at: text(6)?.parse().map_err(unfit)?,
    })
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
