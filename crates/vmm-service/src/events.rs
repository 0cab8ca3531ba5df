//! The stream of what happens, fanned out to any number of subscribers.
//!
//! Publishing never waits: a subscriber that reads too slowly loses the oldest
//! events and is told how many, and slows nobody else.

use std::sync::Arc;

use uuid::Uuid;
use vmm_api::event::{EventId, EventKind};

/// Where everybody publishes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventBus {}

/// An event with its place in the stream; its JSON is made once for all
/// subscribers.
#[derive(Debug)]
pub struct Published {
    /// Its place.
    pub id: EventId,
    /// The VM that it concerns.
    pub vm: Option<Uuid>,
    /// The word in `event:`.
    pub kind: &'static str,
    /// The compact JSON of [`vmm_api::event::Event`].
    pub json: String,
}

/// What a subscriber gets next.
#[derive(Debug)]
pub enum Next {
    /// An event.
    Event(Arc<Published>),
    /// Events that were lost, and how many if that is known.
    Missed(Option<u64>),
    /// The daemon is going down.
    Closed,
}

impl EventBus {
    /// A stream that remembers the newest `capacity` events for those who come
    /// back with a Last-Event-ID.
    pub fn new(_capacity: usize) -> Self {
        Self {}
    }

    /// Says that something happened. Never waits.
    pub fn publish(&self, _vm: Option<Uuid>, _kind: EventKind) {}

    /// Everything after `since`, or from now on. When what followed `since` is
    /// no longer known, the first thing is [`Next::Missed`].
    pub fn subscribe(&self, _since: Option<&EventId>) -> Subscriber {
        Subscriber {}
    }

    /// Ends every subscription after what was published before.
    pub fn close(&self) {}
}

/// One subscriber's place in the stream.
#[derive(Debug)]
pub struct Subscriber {}

impl Subscriber {
    /// Waits for the next thing. Cancel-safe.
    pub async fn next(&mut self) -> Next {
        Next::Closed
    }
}
