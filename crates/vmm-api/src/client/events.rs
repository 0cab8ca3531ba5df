//! The stream of what happens, held together across lost connections.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::connection::{Connection, Request};
use super::sse::Parser;
use super::{Client, Error, const_value, refusal};
use crate::event::Event;

/// How long the daemon may take to begin the stream.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// How long a stream may be silent: the daemon says every 15 s that it lives.
const SILENCE_DEADLINE: Duration = Duration::from_secs(60);

/// The longest refusal that is read.
const MAX_REFUSAL_BYTES: usize = 1024 * 1024;

/// The first and the longest pause before the connection is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Events, in order, from one point on.
pub struct EventStream {
    client: Client,
    path: String,
    last_id: Option<String>,
    open: Option<Open>,
    retry_at: Instant,
    pause: Duration,
}

/// What comes next in the stream.
#[derive(Debug)]
pub enum Next {
    /// An event.
    Event(Received),
    /// An event of a kind that this client does not know, from a newer daemon.
    Unknown {
        /// Its `event:` word.
        kind: String,
    },
    /// The connection is lost. The stream goes on trying to get it back.
    Disconnected(Error),
    /// The connection is back and goes on after the last event. What cannot be
    /// had any more is told by an event `missed`.
    Reconnected,
}

/// An event with its place in the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// Its place, to come back to; absent when the daemon named none.
    pub id: Option<String>,
    /// The event.
    pub event: Event,
    /// The event as the daemon wrote it.
    pub json: String,
}

impl EventStream {
    pub(super) async fn open(
        client: Client,
        path: String,
        since: Option<String>,
    ) -> Result<Self, Error> {
        let open = Open::new(&client, &path, since.as_deref()).await?;
        Ok(Self {
            client,
            path,
            last_id: since,
            open: Some(open),
            retry_at: Instant::now(),
            pause: BACK_OFF.0,
        })
    }

    /// Waits for what comes next, however long that takes. Not cancel-safe while the
    /// connection is being made again: keep the future.
    ///
    /// # Errors
    ///
    /// When the daemon refuses to go on with the stream, or sends what is no
    /// stream of events: trying again would bring the same.
    pub async fn next(&mut self) -> Result<Next, Error> {
        let Some(open) = &mut self.open else { return self.reconnect().await };
        let next = tokio::time::timeout(SILENCE_DEADLINE, open.next(&mut self.last_id));
        match next.await.unwrap_or(Err(Error::TimedOut(SILENCE_DEADLINE))) {
            Ok(next) => {
                self.pause = BACK_OFF.0;
                Ok(next)
            }
            Err(error @ Error::Protocol(_)) => Err(error),
            Err(error) => {
                self.open = None;
                self.retry_at = Instant::now() + self.pause;
                // Until an event comes: a daemon may take connections and lose
                // them again.
                self.pause = (self.pause * 2).min(BACK_OFF.1);
                Ok(Next::Disconnected(error))
            }
        }
    }

    async fn reconnect(&mut self) -> Result<Next, Error> {
        loop {
            tokio::time::sleep_until(self.retry_at).await;
            match Open::new(&self.client, &self.path, self.last_id.as_deref()).await {
                Ok(open) => {
                    self.open = Some(open);
                    return Ok(Next::Reconnected);
                }
                // A daemon that goes down or comes up may say so.
                Err(error) if error.status().is_some_and(|status| status < 500) => {
                    return Err(error);
                }
                Err(_) => {
                    self.pause = (self.pause * 2).min(BACK_OFF.1);
                    self.retry_at = Instant::now() + self.pause;
                }
            }
        }
    }
}

/// One connection's part of the stream.
struct Open {
    connection: Connection,
    body: Incoming,
    parser: Parser,
}

impl Open {
    async fn new(client: &Client, path: &str, since: Option<&str>) -> Result<Self, Error> {
        let opening = Self::request(client, path, since);
        tokio::time::timeout(OPEN_DEADLINE, opening)
            .await
            .unwrap_or(Err(Error::TimedOut(OPEN_DEADLINE)))
    }

    async fn request(client: &Client, path: &str, since: Option<&str>) -> Result<Self, Error> {
        let mut request = Request::new(Method::GET, path.to_owned());
        request.headers.insert(ACCEPT, const_value("text/event-stream"));
        if let Some(since) = since {
            let value = HeaderValue::from_str(since)
                .map_err(|_| Error::Protocol(format!("{since:?} is no event id")))?;
            request.headers.insert(HeaderName::from_static("last-event-id"), value);
        }
        let mut connection = Connection::open(&client.socket).await?;
        let (parts, body) = connection.send(request).await?.into_parts();
        if !parts.status.is_success() {
            let bytes = connection.collect(body, MAX_REFUSAL_BYTES).await?;
            return Err(refusal(&parts, &bytes));
        }
        Ok(Self { connection, body, parser: Parser::default() })
    }

    async fn next(&mut self, last_id: &mut Option<String>) -> Result<Next, Error> {
        loop {
            if let Some(message) = self.parser.next_message() {
                if message.id.is_some() {
                    last_id.clone_from(&message.id);
                }
                return Ok(match serde_json::from_str::<Event>(&message.data) {
                    Ok(event) => {
                        Next::Event(Received { id: message.id, event, json: message.data })
                    }
                    Err(_) => Next::Unknown { kind: message.kind },
                });
            }
            if let Some(place) = self.parser.place() {
                *last_id = Some(place.clone());
            }
            let piece: Bytes = self
                .connection
                .chunk(&mut self.body)
                .await?
                .ok_or_else(|| Error::Lost("the daemon ended the stream".into()))?;
            self.parser.feed(&piece).map_err(|error| Error::Protocol(error.to_string()))?;
        }
    }
}
