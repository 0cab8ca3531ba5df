//! `/events`: what happens, as server-sent events that can be resumed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use vmm_api::event::{Event, EventId, EventKind};

use super::Context;
use super::answers::Asking;
use super::problem::{ApiError, Result};
use super::query::Parameters;
use super::vms::find;
use crate::events::{Next, Subscriber};

/// How many may watch at a time: half of the door's connections, which they
/// keep for as long as they like, so that other requests always find room.
pub const MAX_STREAMS: usize = 512;

/// How often a quiet stream says that it lives, so that proxies and clients can
/// tell quiet from dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

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
) -> Result<Sse<impl Stream<Item = std::result::Result<sse::Event, Infallible>>>> {
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
    let shutdown = context.shutdown.clone().cancelled_owned();
    // A caller that loses the connection before the first event comes back to
    // where it began, and not to some later now.
    let begin = sse::Event::default().id(subscriber.place().to_string());
    let begin = stream::iter(since.is_none().then_some(begin));
    let watcher = Watcher { subscriber, kinds, _place: place };
    let events = stream::unfold(watcher, next);
    let stream = begin.chain(events).take_until(shutdown).map(Ok);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// A subscriber, what it wants to hear, and the place that it takes up among the
/// watchers.
struct Watcher {
    subscriber: Subscriber,
    /// The words of some kinds; none for all.
    kinds: Vec<&'static str>,
    _place: OwnedSemaphorePermit,
}

async fn next(mut watcher: Watcher) -> Option<(sse::Event, Watcher)> {
    let kinds = &watcher.kinds;
    let event = loop {
        match watcher.subscriber.next().await {
            Next::Event(published) if kinds.is_empty() || kinds.contains(&published.kind) => {
                break sse::Event::default()
                    .id(published.id.to_string())
                    .event(published.kind)
                    .data(&published.json);
            }
            // The whole ring may be skipped at once.
            Next::Event(_) => tokio::task::consume_budget().await,
            Next::Missed(count) => break missed(count),
            Next::Closed => return None,
        }
    };
    Some((event, watcher))
}

fn missed(count: Option<u64>) -> sse::Event {
    let event = Event { vm: None, at: Timestamp::now(), kind: EventKind::Missed { count } };
    let json = serde_json::to_string(&event).expect("an event is plain data");
    sse::Event::default().event("missed").data(json)
}
