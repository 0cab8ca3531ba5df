//! Owns every channel and keeps what each guest told.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use guest_protocol::limits::{DEFAULT_HEARTBEAT_S, MAX_OBJECT_BYTES};
use guest_protocol::merge_patch;
use guest_protocol::message::{ErrorBody, ErrorClass, Outcome};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use vmm_api::guest::{Guest, GuestSummary};

use super::budget::LIMITS;
use super::channel::{Channel, FIRST_RETRY, Pace, Signals};
use super::session::Order;
use super::state::GuestState;
use crate::events::EventBus;

/// How many commands may wait for one guest to take the one before. Their
/// senders wait no longer than their own deadlines.
const MAX_WAITING_ORDERS: usize = 4;

/// What a request's envelope takes beside its name and arguments, in bytes.
const ENVELOPE_BYTES: usize = 128;

/// How long a guest has to refuse a shutdown. One that obeys says nothing.
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// How much of a guest's error is kept, in characters.
const MAX_ERROR_CHARS: usize = 1024;

/// The one owner of all channels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    events: EventBus,
    pace: Pace,
    guests: Mutex<HashMap<Uuid, Entry>>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Entry {
    state: Arc<GuestState>,
    attachment: Option<Attachment>,
}

/// The hub's end of a channel's task.
#[derive(Debug)]
struct Attachment {
    task: JoinHandle<()>,
    detached: CancellationToken,
    signals: watch::Sender<Signals>,
    orders: mpsc::Sender<Box<Order>>,
}

/// Why a guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Its agent is not there, or has not been heard of for too long.
    #[error("the guest's agent is not connected")]
    NotConnected,
    /// The guest's own policy does not allow it.
    #[error("the guest's policy does not allow {0}")]
    NotAllowed(String),
    /// It is longer than an object on the channel may be.
    #[error("the command is longer than the {MAX_OBJECT_BYTES} bytes that the channel carries")]
    TooLong,
    /// It did not answer in time.
    #[error("the guest's agent did not answer within {0:?}")]
    TimedOut(Duration),
    /// It answered with an error. The text is the guest's, cut and without
    /// control characters.
    #[error("the guest's agent answered: {0}")]
    Refused(String),
}

impl Hub {
    /// A hub without guests. `events` hears of agents, stages and facts.
    pub fn new(events: EventBus) -> Self {
        let heartbeat = Duration::from_secs(DEFAULT_HEARTBEAT_S.into());
        Self::with_pace(events, Pace { heartbeat, retry: FIRST_RETRY, limits: LIMITS })
    }

    fn with_pace(events: EventBus, pace: Pace) -> Self {
        let shared = Shared {
            events,
            pace,
            guests: Mutex::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts to serve a VM's channel: connects, says hello, listens until
    /// [`Hub::detach`]. Replaces an earlier attachment of the same VM; what was
    /// known of the guest is forgotten when `fresh` (a new run of the VM).
    /// Must be called within the runtime.
    pub fn attach(&self, vm: Uuid, socket: PathBuf, fresh: bool) {
        let shared = &self.shared;
        let mut guests = shared.lock();
        let entry = guests.entry(vm).or_insert_with(|| shared.entry(vm));
        let previous = entry.attachment.take().map(Attachment::cancel);
        if fresh {
            // Of the state that is forgotten nothing is published any more but
            // its agent's end.
            entry.state.detached();
            entry.state = shared.entry(vm).state;
        }
        entry.state.attached();
        let (signals, heard_signals) = watch::channel(Signals::default());
        let (orders, taken_orders) = mpsc::channel(MAX_WAITING_ORDERS);
        let detached = shared.closing.child_token();
        let state = Arc::clone(&entry.state);
        let channel =
            Channel::new(socket, shared.pace, state, heard_signals, taken_orders, detached.clone());
        let task = shared.tasks.spawn(channel.run(previous));
        entry.attachment = Some(Attachment { task, detached, signals, orders });
    }

    /// The guest opened or closed its port, as the hypervisor says.
    pub fn port(&self, vm: Uuid, open: bool) {
        let guests = self.shared.lock();
        let Some(entry) = guests.get(&vm) else { return };
        entry.state.port(open);
        entry.signal(|signals| {
            signals.closes += u64::from(signals.open && !open);
            signals.open = open;
        });
    }

    /// The guest was reset: stages, session and outstanding commands are void.
    pub fn reset(&self, vm: Uuid) {
        let guests = self.shared.lock();
        let Some(entry) = guests.get(&vm) else { return };
        entry.state.reset();
        entry.signal(|signals| signals.resets += 1);
    }

    /// Lets go of a VM's channel and waits until its task is gone. What the
    /// guest told last stays readable until [`Hub::forget`].
    pub async fn detach(&self, vm: Uuid) {
        let taken = {
            let mut guests = self.shared.lock();
            guests.get_mut(&vm).and_then(|entry| {
                let attachment = entry.attachment.take()?;
                Some((Arc::clone(&entry.state), attachment.cancel()))
            })
        };
        let Some((state, task)) = taken else { return };
        if let Err(error) = task.await {
            tracing::error!(%vm, %error, "A channel's task ended badly.");
        }
        state.detached();
    }

    /// Forgets all that a VM's guest told.
    pub fn forget(&self, vm: Uuid) {
        let entry = self.shared.lock().remove(&vm);
        if let Some(attachment) = entry.and_then(|entry| entry.attachment) {
            // Awaited with all the others in `close`.
            attachment.cancel();
        }
    }

    /// How far a guest is, in short.
    pub fn summary(&self, vm: Uuid) -> GuestSummary {
        self.shared.state(vm).map(|state| state.summary()).unwrap_or_default()
    }

    /// Everything that is known of a guest; empty for a VM that never ran.
    pub fn guest(&self, vm: Uuid) -> Guest {
        self.shared.state(vm).map(|state| state.guest()).unwrap_or_default()
    }

    /// Sends a command to a guest and waits for its reply. No route offers this
    /// before callers can sign; the tests go through it to what
    /// [`Hub::shutdown`] rests on.
    ///
    /// # Errors
    ///
    /// [`CommandError::NotConnected`], [`CommandError::NotAllowed`] and
    /// [`CommandError::TooLong`] at once, the others within `deadline`. A guest
    /// that goes while it is waited for is [`CommandError::NotConnected`] too.
    #[cfg(test)]
    pub async fn command(
        &self,
        vm: Uuid,
        name: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, CommandError> {
        let asked = async {
            let Asked { reply, .. } = self.ask(vm, name, arguments).await?;
            let outcome = reply.await.map_err(|_| CommandError::NotConnected)?;
            result(name, outcome)
        };
        timeout(deadline, asked).await.unwrap_or(Err(CommandError::TimedOut(deadline)))
    }

    /// Asks the guest to power off, reboot or halt (`guest-shutdown`), which
    /// sends no reply on success: returns once the request was written and the
    /// guest had half a second to refuse.
    ///
    /// # Errors
    ///
    /// [`CommandError::NotConnected`], [`CommandError::NotAllowed`] and
    /// [`CommandError::TooLong`] at once, the others within `deadline`.
    pub async fn shutdown(
        &self,
        vm: Uuid,
        mode: &str,
        deadline: Duration,
    ) -> Result<(), CommandError> {
        let name = "guest-shutdown";
        let until = Instant::now() + deadline;
        let asked = async {
            let asked = self.ask(vm, name, json!({"mode": mode})).await?;
            asked.written.await.map_err(|_| CommandError::NotConnected)?;
            Ok(asked.reply)
        };
        let reply =
            timeout_at(until, asked).await.unwrap_or(Err(CommandError::TimedOut(deadline)))?;
        match timeout(REFUSAL_TIME, reply).await {
            Ok(Ok(outcome)) => result(name, outcome).map(drop),
            // It went, or says nothing: both are how a guest obeys.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Ends every channel's task and waits for them. The guests go on: what is
    /// known of them stays as it is.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    async fn ask(&self, vm: Uuid, name: &str, arguments: Value) -> Result<Asked, CommandError> {
        let orders = {
            let guests = self.shared.lock();
            let entry = guests.get(&vm).ok_or(CommandError::NotConnected)?;
            let attachment = entry.attachment.as_ref().ok_or(CommandError::NotConnected)?;
            if !entry.state.may(name).ok_or(CommandError::NotConnected)? {
                return Err(CommandError::NotAllowed(name.to_owned()));
            }
            attachment.orders.clone()
        };
        let length = merge_patch::measure(&arguments).bytes + name.len() + ENVELOPE_BYTES;
        if length > MAX_OBJECT_BYTES {
            return Err(CommandError::TooLong);
        }
        let (reply_to, reply) = oneshot::channel();
        let (written_to, written) = oneshot::channel();
        let order =
            Order { name: name.to_owned(), arguments, reply: reply_to, written: written_to };
        orders.send(Box::new(order)).await.map_err(|_| CommandError::NotConnected)?;
        Ok(Asked { reply, written })
    }
}

struct Asked {
    reply: oneshot::Receiver<Outcome>,
    written: oneshot::Receiver<()>,
}

impl Shared {
    fn entry(&self, vm: Uuid) -> Entry {
        let state = Arc::new(GuestState::new(vm, self.events.clone(), &self.pace.limits));
        Entry { state, attachment: None }
    }

    fn state(&self, vm: Uuid) -> Option<Arc<GuestState>> {
        self.lock().get(&vm).map(|entry| Arc::clone(&entry.state))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn signal(&self, change: impl FnOnce(&mut Signals)) {
        if let Some(attachment) = &self.attachment {
            attachment.signals.send_modify(change);
        }
    }
}

impl Attachment {
    /// Tells the task to end, which whoever holds it may await.
    fn cancel(self) -> JoinHandle<()> {
        self.detached.cancel();
        self.task
    }
}

fn result(name: &str, outcome: Outcome) -> Result<Value, CommandError> {
    match outcome {
        Outcome::Return(value) => Ok(value),
        Outcome::Error(ErrorBody { class: ErrorClass::CommandNotFound, .. }) => {
            Err(CommandError::NotAllowed(name.to_owned()))
        }
        Outcome::Error(ErrorBody { desc, .. }) => {
            let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            Err(CommandError::Refused(desc.chars().take(MAX_ERROR_CHARS).map(shown).collect()))
        }
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
