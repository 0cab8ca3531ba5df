//! `/events`: what happens, as server-sent events that can be resumed.

use std::collections::HashMap;
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

use super::answers::Asking;
use super::problem::{ApiError, Result};
use super::vms::find;
use super::{Context, query};
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
           ("vm" = Option<String>, Query, description = "Only this VM's events: UUID or name")),
    responses((status = 200, description = "Events", content_type = "text/event-stream", body = Event), Asking))]
pub async fn events(
    State(context): State<Context>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = std::result::Result<sse::Event, Infallible>>>> {
    query::only(&query, &["since", "vm"])?;
    let since = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let since = since.or_else(|| query.get("since").map(String::as_str));
    let since: Option<EventId> = since
        .map(str::parse)
        .transpose()
        .map_err(|error| ApiError::bad_parameter(format!("Last-Event-ID: {error}.")))?;
    let place = Arc::clone(&context.streams).try_acquire_owned();
    let place = place.map_err(|_| ApiError::too_many_watchers(MAX_STREAMS))?;
    let mut subscriber = context.events.subscribe(since.as_ref());
    if let Some(vm) = query.get("vm") {
        subscriber = subscriber.only(find(&context, vm)?);
    }
    let shutdown = context.shutdown.clone().cancelled_owned();
    // A caller that loses the connection before the first event comes back to
    // where it began, and not to some later now.
    let begin = sse::Event::default().id(subscriber.place().to_string());
    let begin = stream::iter(since.is_none().then_some(begin));
    let events = stream::unfold((subscriber, place), next);
    let stream = begin.chain(events).take_until(shutdown).map(Ok);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// A subscriber, and the place that it takes up among the watchers.
type Watcher = (Subscriber, OwnedSemaphorePermit);

async fn next((mut subscriber, place): Watcher) -> Option<(sse::Event, Watcher)> {
    let event = match subscriber.next().await {
        Next::Event(published) => sse::Event::default()
            .id(published.id.to_string())
            .event(published.kind)
            .data(&published.json),
        Next::Missed(count) => missed(count),
        Next::Closed => return None,
    };
    Some((event, (subscriber, place)))
}

fn missed(count: Option<u64>) -> sse::Event {
    let event = Event { vm: None, at: Timestamp::now(), kind: EventKind::Missed { count } };
    let json = serde_json::to_string(&event).expect("an event is plain data");
    sse::Event::default().event("missed").data(json)
}
