//! The state file itself: how it is made, opened, checked and brought to this
//! program's version.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::sqlite::OpenError;
use super::{seal, tables};
use crate::sys::files;

/// The steps from an empty file to the newest version, which is their number.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/001.sql"), include_str!("migrations/002.sql")];

/// The first version whose rows have seals.
const SEALED_SINCE: i64 = 2;

/// "IBAY": marks the file as ours, as `file`(1) and SQLite's documentation of
/// `application_id` have it.
const APPLICATION_ID: i64 = 0x4942_4159;

/// How long to wait for an operator who looks into the file with another
/// client.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a state file holds, all of it checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its version.
    pub version: i64,
    /// Each table with its total; empty when the version knows no seals.
    pub tables: Vec<(&'static str, seal::Total)>,
}

/// Opens, checks and migrates; makes the file when there is none. The file is
/// untouched when this fails before the migration, and a migration happens
/// wholly or not at all.
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    let at = At(path);
    if matches!(path.symlink_metadata(), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
        at.create()?;
    }
    let mut connection = at.connect()?;
    let version = at.recognise(&connection)?;
    // Only now: it writes to the file.
    at.configure(&connection)?;
    at.migrate(&mut connection, version)?;
    at.verify(&connection)?;
    // Pages are written at the commit and never before: one that was interrupted
    // and whose journal is lost as well does not fit its totals then.
    connection.pragma_update(None, "cache_spill", false).map_err(at.failed("opened"))?;
    Ok(connection)
}

/// Checks a file as [`open`] does, and changes nothing: neither its version nor
/// how it keeps its journal.
pub fn check(path: &Path) -> Result<Contents, OpenError> {
    let at = At(path);
    let connection = at.connect()?;
    let version = at.recognise(&connection)?;
    let tables = if version < SEALED_SINCE { Vec::new() } else { at.verify(&connection)? };
    Ok(Contents { version, tables })
}

/// Takes what is in a file for what was written, after its owner has mended it.
/// Every row must make sense all the same.
pub fn accept(path: &Path) -> Result<Contents, OpenError> {
    let at = At(path);
    let mut connection = at.connect()?;
    let version = at.recognise(&connection)?;
    at.configure(&connection)?;
    at.migrate(&mut connection, version)?;
    let transaction = connection.transaction().map_err(at.failed("written"))?;
    for table in &seal::ALL {
        seal::renew(&transaction, table).map_err(at.failed("written"))?;
    }
    tables::read_all(&transaction).map_err(|error| at.damaged(error))?;
    let tables = at.verify(&transaction)?;
    transaction.commit().map_err(at.failed("written"))?;
    Ok(Contents { version: newest(), tables })
}

/// This program's version of the file.
fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("a handful of migrations fits")
}

/// Where the file is: what goes wrong there names it.
struct At<'a>(&'a Path);

impl At<'_> {
    /// Makes the file beside its name and moves it there when it is whole: under
    /// its name it is never empty, so an empty one was not made by us. SQLite
    /// would also create it readable by all.
    fn create(&self) -> Result<(), OpenError> {
        for log in ["-wal", "-journal"] {
            if self.beside(log).exists() {
                return Err(OpenError::LostMain { path: self.path(), log: self.beside(log) });
            }
        }
        let scratch = self.beside(".new");
        let io = |source: std::io::Error| OpenError::Failed {
            path: self.path(),
            doing: "made",
            source: source.into(),
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&scratch).map_err(io)?;
        let at = At(&scratch);
        let mut connection = at.connect()?;
        // Who is interrupted here begins again: no journal is needed.
        connection.pragma_update(None, "journal_mode", "MEMORY").map_err(at.failed("made"))?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(at.failed("made"))?;
        at.migrate(&mut connection, 0)?;
        connection.close().map_err(|(_, error)| at.failed("made")(error))?;
        std::fs::rename(&scratch, self.0).map_err(io)?;
        // A name that is not on the disk is lost in a power cut with all that the
        // file holds.
        self.0.parent().map_or(Ok(()), files::sync_folder).map_err(io)
    }

    fn connect(&self) -> Result<Connection, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.0, flags)
            .map_err(|source| self.unusable("opened", source))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(self.failed("opened"))?;
        seal::install(&connection).map_err(self.failed("opened"))?;
        Ok(connection)
    }

    /// Whether the file is ours and whole as SQLite sees it, and its version.
    fn recognise(&self, connection: &Connection) -> Result<i64, OpenError> {
        // One byte counts as none to SQLite.
        if std::fs::metadata(self.0).is_ok_and(|file| file.len() <= 1) {
            return Err(self.damaged("it is empty".to_owned()));
        }
        let found: String = connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(self.failed("checked"))?;
        if found != "ok" {
            return Err(self.damaged(found));
        }
        if pragma(connection, "application_id").map_err(self.failed("read"))? != APPLICATION_ID {
            return Err(OpenError::Foreign { path: self.path() });
        }
        let found = pragma(connection, "user_version").map_err(self.failed("read"))?;
        let known = newest();
        if found > known {
            return Err(OpenError::Newer { path: self.path(), found, known });
        }
        if found < 1 {
            return Err(self.damaged(format!("its version is {found}")));
        }
        self.check_schema(connection, found)?;
        if connection.is_readonly("main").map_err(self.failed("checked"))? {
            return Err(OpenError::ReadOnly { path: self.path() });
        }
        Ok(found)
    }

    /// Tables, indexes and triggers must be those of the version, to the letter.
    fn check_schema(&self, connection: &Connection, version: i64) -> Result<(), OpenError> {
        let model = Connection::open_in_memory().map_err(self.failed("checked"))?;
        seal::install(&model).map_err(self.failed("checked"))?;
        for step in MIGRATIONS.iter().take(usize::try_from(version).unwrap_or_default()) {
            model.execute_batch(step).map_err(self.failed("checked"))?;
        }
        let wanted = schema(&model).map_err(self.failed("checked"))?;
        let found = schema(connection).map_err(self.failed("read"))?;
        let odd = found.iter().find(|item| !wanted.contains(item));
        let missing = wanted.iter().find(|item| !found.contains(item));
        match (odd, missing) {
            (None, None) => Ok(()),
            (Some((name, _)), _) => {
                Err(self.damaged(format!("{name} is not as vmm-service makes it")))
            }
            (None, Some((name, _))) => Err(self.damaged(format!("{name} is missing"))),
        }
    }

    /// A rollback journal and not a write-ahead log, although that costs a commit
    /// two or three flushes more: one flipped byte in a log ends it there, and
    /// SQLite drops the acknowledged commits behind it without a word. With
    /// TRUNCATE all that was acknowledged lies in the file, under seals; and the
    /// journal, which stays behind empty, tells a lost file from one that never
    /// was.
    ///
    /// FULL flushes at every commit: an acknowledged change survives a power cut.
    fn configure(&self, connection: &Connection) -> Result<(), OpenError> {
        let mode: String = connection
            .pragma_update_and_check(None, "journal_mode", "TRUNCATE", |row| row.get(0))
            .map_err(self.failed("opened"))?;
        if mode != "truncate" {
            let source = format!("its journal stays in the mode {mode}: another program uses it");
            let path = self.path();
            return Err(OpenError::Failed { path, doing: "opened", source: source.into() });
        }
        connection
            .pragma_update(None, "synchronous", "FULL")
            .and_then(|()| connection.pragma_update(None, "foreign_keys", "ON"))
            .map_err(self.failed("opened"))
    }

    fn migrate(&self, connection: &mut Connection, version: i64) -> Result<(), OpenError> {
        let done = usize::try_from(version).unwrap_or_default();
        if done == MIGRATIONS.len() {
            return Ok(());
        }
        let transaction = connection.transaction().map_err(self.failed("migrated"))?;
        for step in &MIGRATIONS[done..] {
            transaction.execute_batch(step).map_err(self.failed("migrated"))?;
        }
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .and_then(|()| transaction.pragma_update(None, "user_version", newest()))
            .and_then(|()| transaction.commit())
            .map_err(self.failed("migrated"))
    }

    /// Reads every row.
    fn verify(
        &self,
        connection: &Connection,
    ) -> Result<Vec<(&'static str, seal::Total)>, OpenError> {
        let verify = |table: &seal::Sealed| {
            let total = seal::verify(connection, table).map_err(self.failed("read"))?;
            Ok((table.name, total.map_err(|what| self.damaged(what))?))
        };
        seal::ALL.iter().map(verify).collect()
    }

    fn path(&self) -> PathBuf {
        self.0.to_owned()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.0.as_os_str().to_owned();
        path.push(suffix);
        path.into()
    }

    fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged { path: self.path(), what }
    }

    fn unusable(&self, doing: &'static str, source: rusqlite::Error) -> OpenError {
        OpenError::Failed { path: self.path(), doing, source: source.into() }
    }

    /// Tells what the host does, such as a full disk, from what the file is: one
    /// that our own statements do not fit is not as we left it.
    fn failed(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> OpenError {
        move |source| match source.sqlite_error_code() {
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied,
            ) => self.unusable(doing, source),
            Some(ErrorCode::ReadOnly) => OpenError::ReadOnly { path: self.path() },
            _ => self.damaged(source.to_string()),
        }
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// What is in the file by name, with the statement that made it.
fn schema(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    connection
        .prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
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
        assert_eq!(pragma(&connection, "user_version").unwrap(), newest());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_creation_that_was_cut_short_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        std::fs::write(folder.path().join("state.db.new"), "half a file").unwrap();
        drop(open(&path).unwrap());
        drop(open(&path).unwrap());
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
    fn a_file_that_is_not_there_is_new_only_without_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        for log in ["state.db-wal", "state.db-journal"] {
            std::fs::write(folder.path().join(log), "").unwrap();
            let error = open_error(&path);
            assert!(error.contains("is missing, but its journal"), "{error}");
            std::fs::remove_file(folder.path().join(log)).unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("unmounted/state.db"), &path).unwrap();
        assert!(open_error(&path).contains("could not be opened"));
        assert!(path.is_symlink(), "it is left alone");
    }

    #[test]
    fn an_empty_file_is_not_taken_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        for content in ["", "S"] {
            std::fs::write(&path, content).unwrap();
            let error = open_error(&path);
            assert!(error.contains("is damaged (it is empty)"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), content.as_bytes(), "it is left alone");
        }
    }

    #[test]
    fn a_file_of_the_first_version_gets_its_seals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.pragma_update(None, "journal_mode", "WAL").unwrap();
        old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        let vm = "INSERT INTO vms VALUES ('1', 'web', '{}', 'q35', '\"created\"', NULL, 'a', 'b')";
        old.execute_batch(vm).unwrap();
        drop(old);
        assert_eq!(check(&path).unwrap(), Contents { version: 1, tables: Vec::new() });
        drop(open(&path).unwrap());
        let contents = check(&path).unwrap();
        assert_eq!((contents.version, contents.tables[0].1.rows), (newest(), 1));
    }

    #[test]
    fn what_another_hand_changed_is_refused_until_it_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        drop(open(&path).unwrap());
        let hand = Connection::open(&path).unwrap();
        let at = "2026-01-02T03:04:05Z";
        hand.execute(
            "INSERT INTO vms VALUES ('2f1c9a2e-8c1d-4b3a-9f00-0123456789ab', 'web', ?1, 'q35',
             '\"created\"', NULL, ?2, ?2, 0)",
            [r#"{"name": "web", "vcpus": 1, "memory_mib": 64}"#, at],
        )
        .unwrap();
        let refused =
            "row \"2f1c9a2e-8c1d-4b3a-9f00-0123456789ab\" of vms is not as it was written";
        assert!(open_error(&path).contains(refused));
        assert_eq!(accept(&path).unwrap(), check(&path).unwrap());
        drop(open(&path).unwrap());
        hand.execute("UPDATE vms SET spec = 'not JSON'", []).unwrap();
        assert!(accept(&path).is_err());
        hand.execute("DROP TRIGGER vms_added", []).unwrap();
        assert!(open_error(&path).contains("vms_added is missing"));
        hand.execute("CREATE TABLE lost_and_found (x)", []).unwrap();
        assert!(open_error(&path).contains("lost_and_found is not as vmm-service makes it"));
    }
}
