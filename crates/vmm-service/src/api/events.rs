//! `/events`: what happens, as server-sent events that can be resumed.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout_at};
use vmm_api::event::{Event, EventId, EventKind};

use super::Context;
use super::answers::Asking;
use super::problem::{ApiError, Result};
use super::query::Parameters;
use super::vms::find;
use crate::events::{Next, Published, Subscriber};

/// How many may watch at a time: half of the door's connections, which they
/// keep for as long as they like, so that other requests always find room.
pub const MAX_STREAMS: usize = 512;

/// How often a quiet stream says that it lives, so that proxies and clients can
/// tell quiet from dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment, which clients ignore.
const ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// How long events gather after a piece was sent: at thousands a second each
/// alone would cost a wake-up and a write, and nobody sees the difference.
const REST: Duration = Duration::from_millis(10);

/// How long a piece of the stream gets before it is sent, in bytes; the last
/// event in it may be longer than all the others.
const PIECE_BYTES: usize = 64 * 1024;

/// What happens from now on, or since an event that the caller saw. A caller
/// that reads too slowly is told how many events it missed, in an event
/// `missed` that has no id of its own. A stream from now on begins with an id
/// without an event: the place to come back to until there is a later one.
#[utoipa::path(get, path = "/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "Go on after this event"),
           ("since" = Option<String>, Query, description = "The same, for callers that cannot set headers"),
           ("vm" = Option<String>, Query, description = "Only this VM's events: UUID or name"),
           ("kind" = Option<Vec<String>>, Query, explode = false, description = "Only events of these kinds, with commas between them; `missed` comes anyway, and counts the others too")),
    responses((status = 200, description = "Events", content_type = "text/event-stream", body = Event), Asking))]
pub async fn events(
    State(context): State<Context>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response> {
    let mut given = Parameters::new(query);
    let text = |text: &str| Some(text.to_owned());
    let since = given.one("since", "an event's id", text);
    let vm = given.one("vm", "a UUID or a name", text);
    let kinds = given.words("kind", &EventKind::WORDS.map(|word| (word, word)));
    given.finish()?;
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let since: Option<EventId> = header
        .or(since.as_deref())
        .map(str::parse)
        .transpose()
        .map_err(|error| ApiError::bad_parameter(format!("Last-Event-ID: {error}.")))?;
    let place = Arc::clone(&context.streams).try_acquire_owned();
    let place = place.map_err(|_| ApiError::too_many_watchers(MAX_STREAMS))?;
    let mut subscriber = context.events.subscribe(since.as_ref());
    if let Some(vm) = vm {
        subscriber = subscriber.only(find(&context, &vm)?);
    }
    // A caller that loses the connection before the first event comes back to
    // where it began, and not to some later now.
    let begin = since.is_none().then(|| Bytes::from(format!("id: {}\n\n", subscriber.place())));
    let watcher = Watcher { subscriber, kinds, rest_until: None, _place: place };
    let shutdown = context.shutdown.clone().cancelled_owned();
    let pieces = stream::iter(begin).chain(stream::unfold(watcher, next)).take_until(shutdown);
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    Ok((head, body).into_response())
}

/// A subscriber, what it wants to hear, and the place that it takes up among the
/// watchers.
struct Watcher {
    subscriber: Subscriber,
    /// The words of some kinds; none for all.
    kinds: Vec<&'static str>,
    /// Until then events are left to gather.
    rest_until: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

/// What is sent next: all events that are there, or that there are none.
async fn next(mut watcher: Watcher) -> Option<(Bytes, Watcher)> {
    let quiet_until = Instant::now() + KEEP_ALIVE;
    let mut piece = String::new();
    while piece.is_empty() {
        if let Some(until) = watcher.rest_until.take() {
            sleep_until(until).await;
        }
        let Ok(first) = timeout_at(quiet_until, watcher.subscriber.next()).await else {
            return Some((ALIVE, watcher));
        };
        if !watcher.gather(first, &mut piece) && piece.is_empty() {
            return None;
        }
        if piece.is_empty() && Instant::now() >= quiet_until {
            // Much happens, and nothing of it is wanted.
            return Some((ALIVE, watcher));
        }
    }
    Some((piece.into(), watcher))
}

impl Watcher {
    /// Writes `first` and what follows it, as far as it is wanted, there already
    /// and has room. Says whether the stream goes on; its end is told again when
    /// it is asked for again.
    fn gather(&mut self, first: Next, piece: &mut String) -> bool {
        let mut more = Some(first);
        while let Some(next) = more {
            match next {
                Next::Event(event) if self.wants(event.kind) => {
                    write(piece, &self.subscriber, &event);
                }
                Next::Event(_) => {}
                Next::Missed(count) => missed(piece, count),
                Next::Closed => return false,
            }
            if piece.len() >= PIECE_BYTES {
                return true;
            }
            more = self.subscriber.try_next();
        }
        self.rest_until = Some(Instant::now() + REST);
        true
    }

    fn wants(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

fn write(piece: &mut String, subscriber: &Subscriber, event: &Published) {
    let (id, Published { kind, json, .. }) = (subscriber.place_of(event), event);
    writeln!(piece, "id: {id}\nevent: {kind}\ndata: {json}\n").expect("a String takes everything");
}

fn missed(piece: &mut String, count: Option<u64>) {
    let event = Event { vm: None, at: Timestamp::now(), kind: EventKind::Missed { count } };
    let json = serde_json::to_string(&event).expect("an event is plain data");
    writeln!(piece, "event: missed\ndata: {json}\n").expect("a String takes everything");
}
