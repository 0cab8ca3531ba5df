//! The store in one SQLite file, written by one thread.
//!
//! The thread takes what waits in its queue and commits it together: a hundred
//! VMs that change at once cost one flush of the disk, not a hundred. Nobody is
//! answered before that flush.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::VmSpec;

use super::{
    Contents, IdempotencyKey, Inserted, StateChange, Store, StoreError, VmRecord, schema, tables,
};

/// How many changes may wait for the disk; who comes later waits to enter.
const QUEUE: usize = 1024;

/// How many changes share a commit. More would gain nothing beside the flush
/// and make the first of them wait.
const BATCH: usize = 256;

/// A store in a file.
#[derive(Debug)]
pub struct SqliteStore {
    /// `None` only while it is being dropped.
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a state file was not opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file belongs to a later version of this program.
    #[error(
        "{} was written by a newer vmm-service (its version is {found}, this program knows up to \
         {known}): install that version again, or restore the state file from before the upgrade",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file is not whole.
    #[error(
        "{} is damaged ({what}), and was left as it is, as were all virtual machines: copy it \
         aside with its -journal, then restore it from a backup, or rescue what can be read with \
         `sqlite3 FILE .recover` and `vmm-service --accept-state`; docs/daemon.md has the steps",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The journal is there without its file.
    #[error(
        "{} is missing, but its journal {} is there: restore the file from a backup, or remove \
         the journal to begin with an empty state",
        path.display(),
        log.display()
    )]
    LostMain {
        /// The file.
        path: PathBuf,
        /// The journal.
        log: PathBuf,
    },
    /// It is a database of another program.
    #[error(
        "{} is a database, but not one of vmm-service: name another file, or restore this one from \
         a backup if it was one",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written to.
    #[error(
        "{} cannot be written to: see whether its file system is mounted read-only, and mount it \
         with `mount -o remount,rw`; if it is not, the file is damaged: restore it from a backup",
        path.display()
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be used.
    #[error("{} could not be {doing}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// "created", "opened", …
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SqliteStore {
    /// Opens the file, or creates it readable by its owner only; checks that it
    /// is whole and brings it to this program's version. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the file is as it was before.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = schema::open(path)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_until_closed(connection, jobs))
            .map_err(|source| OpenError::Failed {
                path: path.to_owned(),
                doing: "given a thread",
                source: source.into(),
            })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Checks a file as [`Self::open`] does and changes nothing. A daemon may be
    /// using it. Blocks.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`].
    pub fn check(path: &Path) -> Result<Contents, OpenError> {
        schema::check(path)
    }

    /// Takes what is in a file for what was written: after its owner mended it,
    /// while no daemon uses it. Blocks.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`], when it still makes no sense.
    pub fn accept(path: &Path) -> Result<Contents, OpenError> {
        schema::accept(path)
    }

    /// Has the thread do `work` within its next transaction and waits for the
    /// flush.
    async fn run<T, F>(&self, doing: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let outcome = work(connection);
            let failed = outcome.is_err();
            let settle: Settle = Box::new(move |committed| {
                // Nobody listens any more when the caller was cancelled.
                let _ = answer.send(match committed {
                    Ok(()) => outcome,
                    Err(error) => Err(outcome.err().unwrap_or_else(|| failure(doing, error))),
                });
            });
            (failed, settle)
        });
        let queue = self.queue.as_ref().ok_or_else(|| gone(doing))?;
        queue.send(job).await.map_err(|_| gone(doing))?;
        answered.await.map_err(|_| gone(doing))?
    }
}

impl Drop for SqliteStore {
    /// Waits until what was queued is on the disk.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The store's thread had panicked.");
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.run("read", tables::vms).await
    }

    async fn insert_vm(
        &self,
        record: &VmRecord,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let (record, key) = (record.clone(), key.cloned());
        self.run("written", move |db| tables::insert_vm(db, &record, key.as_ref())).await
    }

    async fn change_state(&self, change: &StateChange) -> Result<(), StoreError> {
        let change = change.clone();
        self.run("written", move |db| tables::change_state(db, &change)).await
    }

    async fn change_spec(&self, id: Uuid, spec: &VmSpec) -> Result<(), StoreError> {
        let spec = spec.clone();
        self.run("written", move |db| tables::change_spec(db, id, &spec)).await
    }

    async fn delete_vm(&self, id: Uuid, deletion: Option<&Operation>) -> Result<(), StoreError> {
        let deletion = deletion.cloned();
        self.run("written", move |db| tables::delete_vm(db, id, deletion.as_ref())).await
    }

    async fn operation(&self, id: Uuid) -> Result<Option<Operation>, StoreError> {
        self.run("read", move |db| tables::operation(db, id)).await
    }

    async fn unfinished_operations(&self) -> Result<Vec<Operation>, StoreError> {
        self.run("read", tables::unfinished_operations).await
    }

    async fn last_boot(&self) -> Result<Option<String>, StoreError> {
        self.run("read", tables::last_boot).await
    }

    async fn remember_boot(&self, boot: &str) -> Result<(), StoreError> {
        let boot = boot.to_owned();
        self.run("written", move |db| tables::remember_boot(db, &boot)).await
    }
}

/// Does one caller's work and hands back whether it failed and how the caller
/// is told once the transaction's fate is known.
type Job = Box<dyn FnOnce(&Connection) -> (bool, Settle) + Send>;
type Settle = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

fn write_until_closed(connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
        write_batch(&connection, batch.drain(..));
    }
    if let Err((_, error)) = connection.close() {
        tracing::error!(%error, "The state file was not closed properly; nothing is lost by it.");
    }
}

/// One transaction for all; a savepoint for each, so that a refused change
/// takes no other with it.
fn write_batch(connection: &Connection, batch: impl Iterator<Item = Job>) {
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    let mut settles = Vec::new();
    for job in batch {
        let savepoint = connection.execute_batch("SAVEPOINT job");
        let (failed, settle) = job(connection);
        settles.push(settle);
        if savepoint.is_ok() {
            let end = if failed { "ROLLBACK TO job; RELEASE job" } else { "RELEASE job" };
            if let Err(error) = connection.execute_batch(end) {
                tracing::debug!(%error, "The savepoint went with its transaction.");
            }
        }
    }
    // A full disk makes SQLite roll the whole transaction back by itself;
    // the commit then fails, and everybody is told.
    let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
    if committed.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    for settle in settles {
        settle(committed.as_ref().map(|&()| ()));
    }
}

fn gone(doing: &'static str) -> StoreError {
    StoreError::Failed { doing, source: "the store's thread has ended".into() }
}

/// Tells a disk that is full or broken, which its owner can mend, from everything
/// else.
pub(super) fn failure(doing: &'static str, error: &rusqlite::Error) -> StoreError {
    let source = error.to_string().into();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(source),
        Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => StoreError::Disk(source),
        _ => StoreError::Failed { doing, source },
    }
}

#[cfg(test)]
impl SqliteStore {
    /// Lets the file grow to so many pages (0: no further than it is), which to
    /// SQLite is a full disk.
    pub async fn limit_pages_for_test(&self, pages: i64) {
        self.run("limited", move |db| {
            let pages = pages.max(1);
            db.pragma_update(None, "max_page_count", pages).map_err(|e| failure("limited", &e))
        })
        .await
        .expect("a pragma needs no disk");
    }
}
