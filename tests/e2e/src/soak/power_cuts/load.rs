//! What goes on while the power is cut: operators who create, start, pause, kill,
//! restart and delete, each the VMs of its own, and note what is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use vmm_api::operation::{Operation, OperationKind, OperationState};
use vmm_api::vm::{DiskFormat, DiskSpec, Vm, VmSpec};

use super::host::{Link, NoAnswer, VM_DISK, decode};
use super::record::{Known, Record, Rest};
use crate::soak::Plan;

/// How many VMs an operator has at a time, at most.
const VMS: usize = 4;
/// How many may run at a time: they share an emulated processor.
const RUNNING: usize = 2;
/// How long an operation may take: nested QEMU starts in 3 s on an idle machine.
const END_LIMIT: Duration = Duration::from_secs(180);

/// One operator.
pub struct Operator {
    /// Begins the names of its VMs.
    pub name: String,
    /// The way to the daemon.
    pub link: Arc<Link>,
    /// Where it notes what is answered.
    pub record: Record,
    /// Where it counts.
    pub plan: Plan,
    /// What it chooses by.
    pub random: fastrand::Rng,
    /// Who may have a VM run.
    pub running: Arc<Semaphore>,
}

/// As many as may run at a time.
pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(RUNNING))
}

impl Operator {
    /// Works until the power goes.
    ///
    /// # Errors
    /// When the daemon refuses what it should grant, or does not end what it
    /// began.
    pub async fn work(mut self) -> Result<()> {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(NoAnswer::Cut) => return Ok(()),
                Err(NoAnswer::Wrong(error)) => return Err(error),
            }
        }
    }

    async fn step(&mut self) -> Result<(), NoAnswer> {
        let own = self.own();
        let (names, room) = (own.keys().cloned().collect::<Vec<_>>(), VMS - own.len().min(VMS));
        if names.is_empty() || self.random.usize(0..2 * VMS) < room {
            return self.create().await;
        }
        let name = names[self.random.usize(0..names.len())].clone();
        match own[&name].rest {
            // It was left so by an operation that failed.
            Rest::Up => self.act(&name, OperationKind::Kill).await.map(drop),
            _ if self.random.u8(0..3) == 0 => {
                self.act(&name, OperationKind::Delete).await.map(drop)
            }
            _ => self.life(&name).await,
        }
    }

    /// Its own VMs.
    fn own(&self) -> BTreeMap<String, Known> {
        let inner = self.record.inner();
        let own = inner.vms.iter().filter(|(name, _)| name.starts_with(&self.name));
        own.map(|(name, known)| (name.clone(), known.clone())).collect()
    }

    async fn create(&mut self) -> Result<(), NoAnswer> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let spec = spec(&format!("{}{number}", self.name), &mut self.random);
        let key = format!("{}{number}-{:x}", self.name, self.random.u64(..));
        self.record.creating(&spec, &key);
        create(&self.link, &self.record, &spec, &key).await?;
        self.plan.count("creations acknowledged");
        Ok(())
    }

    /// Starts a VM, does something with it, and ends it.
    async fn life(&mut self, name: &str) -> Result<(), NoAnswer> {
        let running = Arc::clone(&self.running);
        let Ok(_place) = running.try_acquire() else { return self.create_or_delete(name).await };
        let between = [OperationKind::Pause, OperationKind::Restart];
        let ends = [OperationKind::Kill, OperationKind::Stop];
        let mut kinds = vec![OperationKind::Start];
        kinds.extend(between.into_iter().filter(|_| self.random.u8(0..4) == 0).take(1));
        kinds.extend(self.random.choice(ends));
        for kind in kinds {
            if !self.act(name, kind).await? {
                break;
            }
        }
        Ok(())
    }

    async fn create_or_delete(&mut self, name: &str) -> Result<(), NoAnswer> {
        if self.own().len() < VMS {
            return self.create().await;
        }
        self.act(name, OperationKind::Delete).await.map(drop)
    }

    /// Asks for an operation and waits for its end; whether it succeeded.
    async fn act(&mut self, name: &str, kind: OperationKind) -> Result<bool, NoAnswer> {
        self.record.change(name, |known| known.doing = Some(kind));
        let (method, path, body) = route(name, kind);
        let granted = self.link.daemon(method, &path, None, body).await?;
        let granted: Operation = decode(granted).map_err(NoAnswer::Wrong)?;
        self.record.acknowledged(name, &granted);
        self.plan.count("operations acknowledged");
        let ended = ended(&self.link, granted).await?;
        self.record.acknowledged(name, &ended);
        if ended.state == OperationState::Succeeded {
            self.plan.count("operations acknowledged as done");
            return Ok(true);
        }
        // Such as a stop that a slow processor made fail: it is told, and the
        // VM goes on from where it is.
        self.plan.count("operations that failed");
        let vm = self.link.daemon("GET", &format!("/vms/{name}"), None, None).await?;
        let vm: Vm = decode(vm).map_err(NoAnswer::Wrong)?;
        self.record.change(name, |known| known.rest = Rest::of(&vm));
        Ok(false)
    }
}

/// Creates a VM, or has it told again which one the key created.
pub async fn create(
    link: &Link,
    record: &Record,
    spec: &VmSpec,
    key: &str,
) -> Result<Vm, NoAnswer> {
    let body = serde_json::to_value(spec).map_err(|error| NoAnswer::Wrong(error.into()))?;
    let vm: Vm = decode(link.daemon("POST", "/vms", Some(key), Some(body)).await?)
        .map_err(NoAnswer::Wrong)?;
    record.change(&spec.name, |known| known.id = Some(vm.id));
    Ok(vm)
}

/// Waits for an operation's end.
pub async fn ended(link: &Link, operation: Operation) -> Result<Operation, NoAnswer> {
    let (began, mut operation) = (Instant::now(), operation);
    while operation.ended_at.is_none() {
        let path = format!("/operations/{}?wait_s=20", operation.id);
        operation =
            decode(link.daemon("GET", &path, None, None).await?).map_err(NoAnswer::Wrong)?;
        let in_time = || {
            ensure!(began.elapsed() < END_LIMIT, "it does not end: {operation:?}");
            Ok(())
        };
        in_time().map_err(NoAnswer::Wrong)?;
    }
    Ok(operation)
}

fn route(name: &str, kind: OperationKind) -> (&'static str, String, Option<Value>) {
    let path = format!("/vms/{name}");
    // Nobody is in there who could go down by himself.
    let body = match kind {
        OperationKind::Delete => return ("DELETE", path, None),
        OperationKind::Stop => Some(json!({"force_after_s": 1})),
        OperationKind::Restart => Some(json!({"cold": true, "force_after_s": 1})),
        _ => None,
    };
    ("POST", format!("{path}/{kind}"), body)
}

/// One of many specifications: what is told again must be that one.
fn spec(name: &str, random: &mut fastrand::Rng) -> VmSpec {
    let label = |key: u8| (format!("key{key}"), format!("{:x}", random.u64(..)));
    VmSpec {
        name: name.to_owned(),
        vcpus: 1,
        memory_mib: 32,
        kernel: None,
        initrd: None,
        cmdline: None,
        disks: vec![DiskSpec {
            path: VM_DISK.to_owned(),
            format: DiskFormat::Raw,
            read_only: true,
        }],
        nics: Vec::new(),
        labels: (0..4).map(label).collect(),
        autostart: false,
    }
}
