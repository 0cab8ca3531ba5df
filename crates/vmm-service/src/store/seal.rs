//! Seals: what shows that every row is as it was written, and that none is gone.
//!
//! SQLite checks the shape of its file, not what the values in it say: a flipped
//! bit in a specification is another specification. So each row has a checksum
//! of all its columns, and each table a total in the same transaction.

use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

/// A table whose rows are sealed.
#[derive(Debug)]
pub struct Sealed {
    /// Its name.
    pub name: &'static str,
    /// Its columns in the order of the seal, without the seal. The first one is
    /// the key.
    pub columns: &'static str,
}

/// The virtual machines.
pub const VMS: Sealed = Sealed {
    name: "vms",
    columns: "id, name, spec, machine_type, state, state_detail, created_at, state_changed_at",
};

/// The operations.
pub const OPERATIONS: Sealed =
    Sealed { name: "operations", columns: "id, vm, ended_us, created_us, operation" };

/// The idempotency keys.
pub const KEYS: Sealed = Sealed { name: "idempotency", columns: "key, body_hash, vm, created_us" };

/// What is remembered of the host.
pub const HOST: Sealed = Sealed { name: "host", columns: "name, value" };

/// Every table whose rows are sealed.
pub const ALL: [Sealed; 4] = [VMS, OPERATIONS, KEYS, HOST];

/// What a table holds: how many rows, and all their seals in exclusive or.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// The rows.
    pub rows: i64,
    /// Their seals.
    pub seals: i64,
}

impl Sealed {
    /// The SQL expression of what a row's seal must be.
    pub fn seal(&self) -> String {
        self.seal_of(self.columns)
    }

    /// The SQL expression of the seal of these values, in the columns' order.
    pub fn seal_of(&self, values: &str) -> String {
        format!("seal('{}', {values})", self.name)
    }

    /// The SQL condition that a row is as it was written.
    pub fn intact(&self) -> String {
        format!("seal = {}", self.seal())
    }
}

/// Gives a connection the SQL function `seal`. No schema may use it: the file is
/// to be of use without this program.
pub fn install(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("seal", -1, flags, |context| {
        let mut hash = Sha256::new();
        for index in 0..context.len() {
            feed(&mut hash, context.get_raw(index));
        }
        let hash = hash.finalize();
        let (first, _) = hash.split_first_chunk().expect("a SHA-256 has 32 bytes");
        Ok(i64::from_le_bytes(*first))
    })
}

/// Each value with its type and length, so that no two rows are the same bytes.
fn feed(hash: &mut Sha256, value: ValueRef<'_>) {
    let mut part = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    match value {
        ValueRef::Null => part(0, &[]),
        ValueRef::Integer(number) => part(1, &number.to_le_bytes()),
        ValueRef::Real(number) => part(2, &number.to_le_bytes()),
        ValueRef::Text(text) => part(3, text),
        ValueRef::Blob(blob) => part(4, blob),
    }
}

/// Reads every row of a table and holds it against its seal, and all of them
/// against the table's total. The inner error says what does not fit.
pub fn verify(connection: &Connection, table: &Sealed) -> rusqlite::Result<Result<Total, String>> {
    let Sealed { name, columns } = table;
    let key = columns.split(',').next().unwrap_or_default();
    let sql = format!("SELECT {key}, seal, {} FROM {name}", table.seal());
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut found = Total::default();
    while let Some(row) = rows.next()? {
        let (seal, computed): (i64, i64) = (row.get(1)?, row.get(2)?);
        if seal != computed {
            let key: String = row.get(0)?;
            return Ok(Err(format!("row {key:?} of {name} is not as it was written")));
        }
        found.rows += 1;
        found.seals ^= seal;
    }
    let written =
        connection.query_row("SELECT rows, seals FROM totals WHERE name = ?1", [name], |row| {
            Ok(Total { rows: row.get(0)?, seals: row.get(1)? })
        })?;
    if found == written {
        return Ok(Ok(found));
    }
    Ok(Err(if found.rows == written.rows {
        format!("the rows of {name} are not those that were written last")
    } else {
        format!("{name} has {} rows where {} were written", found.rows, written.rows)
    }))
}

/// Takes the rows of a table as they are for what was written.
pub fn renew(connection: &Connection, table: &Sealed) -> rusqlite::Result<()> {
    let Sealed { name, .. } = table;
    connection.execute(&format!("UPDATE {name} SET seal = {}", table.seal()), [])?;
    let mut total = Total::default();
    let mut statement = connection.prepare(&format!("SELECT seal FROM {name}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        total.rows += 1;
        total.seals ^= row.get::<_, i64>(0)?;
    }
    connection.execute(
        "INSERT OR REPLACE INTO totals VALUES (?1, ?2, ?3)",
        params![name, total.rows, total.seals],
    )?;
    Ok(())
}
