//! All VMs by id and by name, and the tasks that drive them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use vmm_api::event::EventKind;
use vmm_api::operation::Operation;
use vmm_api::problem::FieldError;
use vmm_api::vm::{State, Vm, VmPatch, VmSpec};

use super::Shared;
use super::adopt::Found;
use super::chain;
use super::driver::{Command, Driver, Ended, View};
use super::spec::{self, Host};
use super::state::{Life, Request};
use super::{RequestError, work};
use crate::hypervisor::Exit;
use crate::store::{IdempotencyKey, Inserted, StoreError, VmRecord};

/// How many machines are looked for at once when the daemon starts: enough to
/// hide the waiting, few enough to leave the host its file descriptors.
const ADOPTIONS_AT_ONCE: usize = 64;

/// Every VM of this daemon. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    host: Host,
    vms: RwLock<Vms>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Default)]
struct Vms {
    by_id: HashMap<Uuid, Entry>,
    by_name: BTreeMap<String, Uuid>,
}

#[derive(Clone)]
struct Entry {
    queue: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
}

impl Registry {
    /// Rebuilds the truth from what was written down and what runs. VMs that
    /// run are taken over; strangers are reported and left alone.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn load(shared: Arc<Shared>, host: Host) -> Result<Self, StoreError> {
        let records = shared.store.vms().await?;
        let mut unfinished: HashMap<Uuid, Vec<Operation>> = HashMap::new();
        for operation in shared.store.unfinished_operations().await? {
            unfinished.entry(operation.vm).or_default().push(operation);
        }
        // Not by the clock, which may be set back and forth.
        let host_restarted =
            shared.store.last_boot().await?.is_some_and(|last| last != shared.boot);
        let inner = Inner {
            shared,
            host,
            vms: RwLock::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        let registry = Self { inner: Arc::new(inner) };
        let machines = registry.machines().await;
        registry.report_strangers(&records, machines.as_ref());
        stream::iter(records)
            .map(|record| {
                let unfinished = unfinished.remove(&record.id).unwrap_or_default();
                // Without a list of machines every one has to be looked for.
                let listed = machines.as_ref().is_none_or(|ids| ids.contains(&record.id));
                registry.clone().bring_back(record, listed, host_restarted, unfinished)
            })
            .buffer_unordered(ADOPTIONS_AT_ONCE)
            .collect::<()>()
            .await;
        // Only when every VM was found: who is interrupted before finds the rest
        // as this one did.
        registry.remember_boot().await;
        Ok(registry)
    }

    /// Reads a specification and checks it against this host. Blocks: the files
    /// that it names are looked at.
    ///
    /// # Errors
    ///
    /// Every wrong field.
    pub fn parse_spec(&self, raw: &Value) -> Result<VmSpec, Vec<FieldError>> {
        spec::parse(raw, &self.inner.host)
    }

    /// Adds a VM, or finds the one that the same idempotency key made before.
    ///
    /// # Errors
    ///
    /// When it could not be written down, its name being taken among the
    /// reasons; nothing was added.
    pub async fn create(
        &self,
        spec: VmSpec,
        key: Option<IdempotencyKey>,
    ) -> Result<Vm, RequestError> {
        // A caller that goes away in the middle must not leave a VM that is
        // written down and that nobody drives.
        let registry = self.clone();
        let adding = self.inner.tasks.spawn(async move { registry.add(spec, key).await });
        adding.await.unwrap_or(Err(RequestError::Closed))
    }

    /// A VM's id by its id or its name. No name has the form of an id.
    pub fn find(&self, id_or_name: &str) -> Option<Uuid> {
        let vms = self.inner.read();
        match Uuid::try_parse(id_or_name) {
            Ok(id) => vms.by_id.contains_key(&id).then_some(id),
            Err(_) => vms.by_name.get(id_or_name).copied(),
        }
    }

    /// A VM as it is now.
    pub fn vm(&self, id: Uuid) -> Option<Vm> {
        self.entry(id).map(|entry| self.show(&entry))
    }

    /// All VMs, sorted by name.
    pub fn list(&self) -> Vec<Vm> {
        let entries: Vec<Entry> = {
            let vms = self.inner.read();
            vms.by_name.values().filter_map(|id| vms.by_id.get(id)).cloned().collect()
        };
        entries.iter().map(|entry| self.show(entry)).collect()
    }

    /// Looks at every VM as it is now, in the order of their names and without
    /// copying any. `look` must not come back to the registry.
    pub fn each(&self, mut look: impl FnMut(&View)) {
        let vms = self.inner.read();
        for entry in vms.by_name.values().filter_map(|id| vms.by_id.get(id)) {
            look(&entry.view.borrow());
        }
    }

    /// How many VMs there are.
    pub fn len(&self) -> usize {
        self.inner.read().by_id.len()
    }

    /// Asks a VM's driver for something. Answers when it is granted and written
    /// down, not when it is done.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing has changed.
    pub async fn request(&self, id: Uuid, request: Request) -> Result<Operation, RequestError> {
        self.command(id, |answer| Command::Act(request, answer)).await
    }

    /// Changes a VM's specification, and gives the VM as it is then. Answers
    /// when it is written down.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing has changed.
    pub async fn change(&self, id: Uuid, patch: VmPatch) -> Result<Vm, RequestError> {
        self.command(id, |answer| Command::Change(patch, answer)).await?;
        self.vm(id).ok_or(RequestError::NoSuchVm(id))
    }

    /// An operation as it is now.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn operation(&self, id: Uuid) -> Result<Option<Operation>, StoreError> {
        self.inner.shared.store.operation(id).await
    }

    /// An operation when it ended, or as it is after `limit`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn wait_operation(
        &self,
        id: Uuid,
        limit: Duration,
    ) -> Result<Option<Operation>, StoreError> {
        let until = Instant::now() + limit;
        let Some(mut operation) = self.operation(id).await? else { return Ok(None) };
        let Some(mut view) = self.entry(operation.vm).map(|entry| entry.view) else {
            return self.operation(id).await;
        };
        while operation.ended_at.is_none() {
            // First "seen until here", then the question: no change is missed.
            view.borrow_and_update();
            match self.operation(id).await? {
                Some(now) => operation = now,
                None => return Ok(None),
            }
            if operation.ended_at.is_some() {
                break;
            }
            match tokio::time::timeout_at(until, view.changed()).await {
                Err(_passed) => break,
                Ok(Ok(())) => {}
                // The VM was deleted, and that is written down.
                Ok(Err(_)) => return self.operation(id).await,
            }
        }
        Ok(Some(operation))
    }

    /// The files of a VM's console log, oldest first.
    pub fn console_log(&self, id: Uuid) -> Vec<PathBuf> {
        self.inner.shared.hypervisor.console_log(id)
    }

    /// Lets go of every VM; they run on. Returns when every driver has finished
    /// what it had begun with the hypervisor.
    pub async fn close(&self) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn command<T>(
        &self,
        id: Uuid,
        command: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> Command,
    ) -> Result<T, RequestError> {
        let entry = self.entry(id).ok_or(RequestError::NoSuchVm(id))?;
        let (answer, answered) = oneshot::channel();
        entry.queue.try_send(command(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Closed,
        })?;
        answered.await.map_err(|_| RequestError::Closed)?
    }

    async fn add(&self, spec: VmSpec, key: Option<IdempotencyKey>) -> Result<Vm, RequestError> {
        let now = Timestamp::now();
        let shared = &self.inner.shared;
        let record = VmRecord {
            id: Uuid::new_v4(),
            spec,
            machine_type: shared.machine_type.clone(),
            state: State::Created,
            state_detail: None,
            created_at: now,
            state_changed_at: now,
        };
        let (id, name) = (record.id, record.spec.name.clone());
        if let Inserted::Before(id) = shared.store.insert_vm(&record, key.as_ref()).await? {
            // Written down and not yet here: its first request is still served.
            return self.vm(id).ok_or(RequestError::Busy);
        }
        let (driver, queue, view) = Driver::new(Arc::clone(shared), record);
        let entry = Entry { queue, view };
        let vm = self.show(&entry);
        self.drive(driver, entry);
        tracing::info!(vm = %id, name, "A VM was created.");
        shared.events.publish(Some(id), EventKind::Created { name });
        Ok(vm)
    }

    async fn machines(&self) -> Option<HashSet<Uuid>> {
        match self.inner.shared.hypervisor.inventory().await {
            Ok(ids) => Some(ids.into_iter().collect()),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "The machines of this host could not be listed; looking for each VM's."
                );
                None
            }
        }
    }

    /// A disk that is full now must not keep the daemon from its VMs.
    async fn remember_boot(&self) {
        let Shared { store, boot, .. } = self.inner.shared.as_ref();
        if let Err(error) = store.remember_boot(boot).await {
            tracing::error!(
                error = chain(&error),
                "This boot of the host could not be written down: a VM that ends unseen will be \
                 taken for one that the host's restart ended."
            );
        }
    }

    fn report_strangers(&self, records: &[VmRecord], machines: Option<&HashSet<Uuid>>) {
        let known: HashSet<Uuid> = records.iter().map(|record| record.id).collect();
        for id in machines.into_iter().flatten().filter(|id| !known.contains(id)) {
            tracing::warn!(machine = %id, "This host has a machine that the state does not know; it is left alone.");
        }
    }

    async fn bring_back(
        self,
        record: VmRecord,
        listed: bool,
        host_restarted: bool,
        unfinished: Vec<Operation>,
    ) {
        let id = record.id;
        let may_be_alive = Life::at_rest(record.state, None).may_be_alive();
        let (found, running) = if listed || may_be_alive {
            work::look(self.inner.shared.hypervisor.as_ref(), id, record.state).await
        } else {
            (Found::Gone(None), None)
        };
        let found = match found {
            // Nothing of one that was at rest is left to tell of.
            Found::Gone(None) if host_restarted && may_be_alive => Found::HostRestarted,
            Found::Gone(Some(Exit::Unseen)) if host_restarted => Found::HostRestarted,
            found => found,
        };
        let (mut driver, queue, view) = Driver::new(Arc::clone(&self.inner.shared), record);
        driver.adopt(&found, running, unfinished, "the daemon was restarted").await;
        self.drive(driver, Entry { queue, view });
    }

    fn drive(&self, driver: Driver, entry: Entry) {
        let (id, name) = {
            let view = entry.view.borrow();
            (view.id, view.spec.name.clone())
        };
        {
            let mut vms = self.inner.write();
            vms.by_name.insert(name.clone(), id);
            vms.by_id.insert(id, entry);
        }
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            if driver.run(inner.shutdown.clone()).await == Ended::Deleted {
                let mut vms = inner.write();
                vms.by_id.remove(&id);
                // The name may have a new owner since the store let go of it.
                if vms.by_name.get(&name) == Some(&id) {
                    vms.by_name.remove(&name);
                }
            }
        });
    }

    fn entry(&self, id: Uuid) -> Option<Entry> {
        self.inner.read().by_id.get(&id).cloned()
    }

    fn show(&self, entry: &Entry) -> Vm {
        let view = entry.view.borrow().clone();
        Vm {
            id: view.id,
            spec: VmSpec::clone(&view.spec),
            state: view.state,
            state_detail: view.detail,
            pid: view.pid,
            created_at: view.created_at,
            state_changed_at: view.state_changed_at,
            guest: self.inner.shared.hub.summary(view.id),
        }
    }
}

impl Inner {
    /// No method panics while it holds the lock, so a poisoned one is whole.
    fn read(&self) -> RwLockReadGuard<'_, Vms> {
        self.vms.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vms> {
        self.vms.write().unwrap_or_else(PoisonError::into_inner)
    }
}
