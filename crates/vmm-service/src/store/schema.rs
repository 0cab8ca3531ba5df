//! The state file itself: how it is opened, checked and brought to this
//! program's version.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::sqlite::OpenError;
use crate::sys::files;

/// The steps from an empty file to the newest version, which is their number.
const MIGRATIONS: &[&str] = &[include_str!("migrations/001.sql")];

/// "IBAY": marks the file as ours, as `file`(1) and SQLite's documentation of
/// `application_id` have it.
const APPLICATION_ID: i64 = 0x4942_4159;

/// How long to wait for an operator who looks into the file with another
/// client.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens, checks and migrates. The file is untouched when this fails before
/// the migration, and a migration happens wholly or not at all.
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |doing| {
        move |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                OpenError::Damaged { path: path.to_owned(), what: source.to_string() }
            }
            _ => OpenError::Failed { path: path.to_owned(), doing, source: source.into() },
        }
    };
    create_private(path)?;
    let mut connection = Connection::open(path).map_err(failed("opened"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed("opened"))?;
    check(&connection, path, &failed)?;
    // Only now: it writes to the file.
    configure(&connection).map_err(failed("opened"))?;
    migrate(&mut connection, path, &failed)?;
    Ok(connection)
}

/// SQLite would create the file readable by all, and its log takes the file's
/// own mode.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let log = path
        .with_file_name(format!("{}-wal", path.file_name().unwrap_or_default().to_string_lossy()));
    if !path.exists() && log.exists() {
        return Err(OpenError::LostMain { path: path.to_owned() });
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        // A name that is not on the disk is lost in a power cut with all that
        // the file holds; SQLite sees to its log's alone.
        .and_then(|_| path.parent().map_or(Ok(()), files::sync_folder))
        .map_err(|source| OpenError::Failed {
            path: path.to_owned(),
            doing: "created",
            source: source.into(),
        })
}

/// FULL flushes the log at every commit: an acknowledged change survives a
/// power cut.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")
}

fn check<E>(
    connection: &Connection,
    path: &Path,
    failed: &impl Fn(&'static str) -> E,
) -> Result<(), OpenError>
where
    E: Fn(rusqlite::Error) -> OpenError,
{
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(failed("checked"))?;
    if found != "ok" {
        return Err(OpenError::Damaged { path: path.to_owned(), what: found });
    }
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed("read"))?;
    let owner = pragma(connection, "application_id").map_err(failed("read"))?;
    if tables > 0 && owner != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let found = pragma(connection, "user_version").map_err(failed("read"))?;
    let known = newest();
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    Ok(())
}

/// This program's version of the file.
fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("a handful of migrations fits")
}

fn migrate<E>(
    connection: &mut Connection,
    path: &Path,
    failed: &impl Fn(&'static str) -> E,
) -> Result<(), OpenError>
where
    E: Fn(rusqlite::Error) -> OpenError,
{
    let found = pragma(connection, "user_version").map_err(failed("read"))?;
    let done = usize::try_from(found).map_err(|_| OpenError::Damaged {
        path: path.to_owned(),
        what: "version below 0".into(),
    })?;
    if done == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(failed("migrated"))?;
    for step in &MIGRATIONS[done..] {
        transaction.execute_batch(step).map_err(failed("migrated"))?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(failed("migrated"))?;
    transaction.pragma_update(None, "user_version", newest()).map_err(failed("migrated"))?;
    transaction.commit().map_err(failed("migrated"))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_error(path: &Path) -> String {
        open(path).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_new_file_is_private_and_has_the_newest_version() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let connection = open(&path).unwrap();
        assert_eq!(pragma(&connection, "user_version").unwrap(), 1);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(open_error(&path).contains("newer vmm-service (its version is 99"));
        assert!(open_error(&path).contains("install that version again"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_foreign_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(open_error(&path).contains("not one of vmm-service"));
        assert_eq!(std::fs::read(&path).unwrap(), before, "it is left alone");
    }

    #[test]
    fn damage_and_a_lost_file_are_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        std::fs::write(&path, "this is no database, however long it may be".repeat(50)).unwrap();
        assert!(open_error(&path).contains("restore it from a backup"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(folder.path().join("state.db-wal"), "x").unwrap();
        assert!(open_error(&path).contains("write-ahead log is there"));
    }

    #[test]
    fn a_page_overwritten_in_the_middle_is_found_at_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        drop(open(&path).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes[4096..8192] {
            *byte = 0x5a;
        }
        std::fs::write(&path, bytes).unwrap();
        assert!(open_error(&path).contains("is damaged"));
    }
}
