//! The stream of what happens, fanned out to any number of subscribers.
//!
//! Publishing never waits: a subscriber that reads too slowly loses the oldest
//! events and is told how many, and slows nobody else. There is one ring for
//! everybody, so a subscriber costs a place in it and nothing more, however
//! slow it is.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;
use vmm_api::event::{Event, EventId, EventKind};

/// How many events the ring holds unless the caller says otherwise: at the
/// busiest that is planned for (10,000 events a second) a subscriber may fall
/// 1.6 s behind, and a quiet host's browser may be away for hours.
pub const DEFAULT_CAPACITY: usize = 16 * 1024;

/// How many bytes of JSON the ring holds. Facts may be 1 MiB each, so a count
/// of events alone would let guests choose how much memory the daemon uses.
const MAX_RING_BYTES: usize = 16 * 1024 * 1024;

/// What stays of the memory in which a thread makes JSON, in bytes: more than a
/// usual guest's facts.
const MAX_RETAINED_JSON_BYTES: usize = 64 * 1024;

/// Where everybody publishes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventBus {
    shared: Arc<Shared>,
}

/// An event with its place in the stream; its JSON is made once for all
/// subscribers.
#[derive(Debug)]
pub struct Published {
    /// Its place in this run's stream.
    sequence: u64,
    /// The VM that it concerns.
    pub vm: Option<Uuid>,
    /// The word in `event:`.
    pub kind: &'static str,
    /// The compact JSON of [`vmm_api::event::Event`].
    pub json: Box<str>,
}

thread_local! {
    /// Where an event's JSON is made, which then takes no more memory in the
    /// ring than it needs.
    static JSON: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a subscriber gets next.
#[derive(Debug)]
pub enum Next {
    /// An event.
    Event(Arc<Published>),
    /// Events that were lost, and how many if that is known. A subscriber to
    /// one VM is told of that VM's events only.
    Missed(Option<u64>),
    /// The daemon is going down.
    Closed,
}

impl EventBus {
    /// A stream that remembers the newest `capacity` events (at least one, and
    /// at most 16 MiB of them) for those who come back with a Last-Event-ID.
    pub fn new(capacity: usize) -> Self {
        Self::with_limits(capacity, MAX_RING_BYTES)
    }

    fn with_limits(capacity: usize, max_bytes: usize) -> Self {
        let (epoch, ..) = Uuid::new_v4().as_fields();
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            next: 1,
            closed: false,
            evicted: HashMap::new(),
        };
        let shared = Shared {
            epoch: format!("{epoch:08x}"),
            capacity: capacity.max(1),
            max_bytes,
            ring: Mutex::new(ring),
            changed: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Says that something happened. Never waits. What is published after
    /// [`EventBus::close`] is lost.
    pub fn publish(&self, vm: Option<Uuid>, kind: EventKind) {
        let event = Event { vm, at: Timestamp::now(), kind };
        let name = event.kind.word();
        // Made outside the lock: facts can be long.
        let json = match to_json(&event) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(%error, kind = name, "An event has no JSON form and is lost.");
                return;
            }
        };
        {
            let mut ring = self.shared.lock();
            if ring.closed {
                return;
            }
            let sequence = ring.next;
            ring.push(Arc::new(Published { sequence, vm, kind: name, json }));
            ring.evict(self.shared.capacity, self.shared.max_bytes);
        }
        self.shared.changed.notify_waiters();
    }

    /// Everything after `since`, or from now on. When what followed `since` is
    /// no longer known, the first thing is [`Next::Missed`], and then the
    /// oldest event that is. An id that this run of the daemon has not given
    /// out yet counts as one of another run.
    pub fn subscribe(&self, since: Option<&EventId>) -> Subscriber {
        let ring = self.shared.lock();
        let (next, unknown) = match since {
            None => (ring.next, false),
            Some(id) if id.epoch == self.shared.epoch && id.sequence < ring.next => {
                (id.sequence + 1, false)
            }
            Some(_) => (ring.first(), true),
        };
        drop(ring);
        Subscriber { shared: Arc::clone(&self.shared), next, unknown, only: None }
    }

    /// Ends every subscription after what was published before.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_waiters();
    }
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

/// One subscriber's place in the stream.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Shared>,
    /// The sequence of the next event to look at.
    next: u64,
    /// Whether a gap of unknown size lies right before `next`.
    unknown: bool,
    only: Option<Only>,
}

/// A subscriber's filter, with what it needs to count losses of one VM. The
/// ring counts a VM's evicted events only while somebody asks for them, so
/// the daemon's memory does not grow with the VMs that ever were.
#[derive(Debug)]
struct Only {
    vm: Uuid,
    /// How many of the VM's events this subscriber has delivered or told as
    /// missed, on the scale of the ring's count of evicted ones.
    accounted: u64,
}

impl Subscriber {
    /// Narrows the stream to one VM's events. [`Next::Missed`] then counts
    /// that VM's alone; the size of a gap that already existed when this is
    /// called is not known.
    #[must_use]
    pub fn only(mut self, vm: Uuid) -> Self {
        let mut ring = self.shared.lock();
        let watch = ring.evicted.entry(vm).or_default();
        watch.subscribers += 1;
        let evicted = watch.events;
        let first = ring.first();
        if self.next < first {
            self.unknown = true;
            self.next = first;
        }
        let passed = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        let passed = ring.events.iter().take(passed).filter(|event| event.vm == Some(vm)).count();
        drop(ring);
        self.only = Some(Only { vm, accounted: evicted + passed as u64 });
        self
    }

    /// The place of an event that this gave.
    pub fn place_of(&self, event: &Published) -> EventId {
        EventId { epoch: self.shared.epoch.clone(), sequence: event.sequence }
    }

    /// The place right before what comes next: to subscribe since it is to go
    /// on from here.
    pub fn place(&self) -> EventId {
        EventId { epoch: self.shared.epoch.clone(), sequence: self.next - 1 }
    }

    /// Waits for the next thing. Cancel-safe.
    pub async fn next(&mut self) -> Next {
        let shared = Arc::clone(&self.shared);
        loop {
            // Made before the look at the ring, so that what is published
            // between the look and the wait wakes it.
            let changed = shared.changed.notified();
            if let Some(next) = self.try_next() {
                return next;
            }
            changed.await;
        }
    }

    /// The next thing, if it is there already.
    pub fn try_next(&mut self) -> Option<Next> {
        let shared = Arc::clone(&self.shared);
        let ring = shared.lock();
        if std::mem::take(&mut self.unknown) {
            return Some(Next::Missed(None));
        }
        let first = ring.first();
        if self.next < first {
            let missed = match &mut self.only {
                None => first - self.next,
                Some(only) => {
                    let evicted = ring.evicted.get(&only.vm).map_or(0, |watch| watch.events);
                    let missed = evicted.saturating_sub(only.accounted);
                    only.accounted += missed;
                    missed
                }
            };
            self.next = first;
            // With a filter the lost ones may all have been other VMs'.
            if missed > 0 {
                return Some(Next::Missed(Some(missed)));
            }
        }
        while let Some(event) = ring.get(self.next) {
            self.next += 1;
            match &mut self.only {
                Some(only) if event.vm != Some(only.vm) => continue,
                Some(only) => only.accounted += 1,
                None => {}
            }
            return Some(Next::Event(Arc::clone(event)));
        }
        ring.closed.then_some(Next::Closed)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let Some(only) = &self.only else { return };
        let mut ring = self.shared.lock();
        if let Some(watch) = ring.evicted.get_mut(&only.vm) {
            watch.subscribers -= 1;
            if watch.subscribers == 0 {
                ring.evicted.remove(&only.vm);
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    epoch: String,
    capacity: usize,
    max_bytes: usize,
    ring: Mutex<Ring>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing under the lock can be left half done by a panic that would
        // matter more than going on without events.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Ring {
    /// Without gaps: the last one's sequence is `next - 1`.
    events: VecDeque<Arc<Published>>,
    /// Sum of the JSON's lengths.
    bytes: usize,
    /// The sequence that the next event gets.
    next: u64,
    closed: bool,
    /// For each VM that a subscriber is narrowed to.
    evicted: HashMap<Uuid, Evicted>,
}

#[derive(Debug, Default)]
struct Evicted {
    subscribers: usize,
    events: u64,
}

impl Ring {
    /// The sequence of the oldest event that is still there, or of the next
    /// one when there is none.
    fn first(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    fn get(&self, sequence: u64) -> Option<&Arc<Published>> {
        let index = sequence.checked_sub(self.first())?;
        self.events.get(usize::try_from(index).ok()?)
    }

    fn push(&mut self, event: Arc<Published>) {
        self.bytes += event.json.len();
        self.events.push_back(event);
        self.next += 1;
    }

    /// Lets go of the oldest until the limits hold; the newest always stays.
    fn evict(&mut self, capacity: usize, max_bytes: usize) {
        while self.events.len() > capacity || (self.bytes > max_bytes && self.events.len() > 1) {
            let Some(event) = self.events.pop_front() else { return };
            self.bytes -= event.json.len();
            if let Some(watch) = event.vm.and_then(|vm| self.evicted.get_mut(&vm)) {
                watch.events += 1;
            }
        }
    }
}

fn to_json(event: &Event) -> serde_json::Result<Box<str>> {
    JSON.with_borrow_mut(|bytes| {
        bytes.clear();
        serde_json::to_writer(&mut *bytes, event)?;
        let json = str::from_utf8(bytes).expect("serde_json writes UTF-8");
        let json = Box::from(json);
        bytes.shrink_to(MAX_RETAINED_JSON_BYTES);
        Ok(json)
    })
}

#[cfg(test)]
mod tests;
