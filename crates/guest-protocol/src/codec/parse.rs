//! Bytes to messages. The host parses up to ten thousand of these a second, so
//! the message is read in one pass: the envelope's keys decide what the value
//! behind them is read as, and only an event whose data comes before its name
//! takes the way through a [`Value`].

#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::message::{Event, GuestMessage, Outcome, Reply, Request, TimedEvent, Timestamp};

/// How much of the parser's explanation is kept, in characters. It may quote
/// what the peer sent, which may be long.
const MAX_DETAIL_CHARS: usize = 200;

/// A whole object that is no message. The text is safe to show: what it quotes
/// of the peer's bytes is escaped and cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// Not JSON after all: a bad number, escape or UTF-8.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// JSON, but not a message of this protocol.
    #[error("not a message of this protocol: {0}")]
    Shape(String),
}

impl From<serde_json::Error> for MalformedMessage {
    fn from(error: serde_json::Error) -> Self {
        let detail =
            error.to_string().chars().take(MAX_DETAIL_CHARS).flat_map(char::escape_debug).collect();
        if error.is_data() { Self::Shape(detail) } else { Self::Syntax(detail) }
    }
}

/// Reads what a guest sent: an event, a result or an error. Members that this
/// version does not know are ignored, so that a newer guest may tell more.
pub fn parse_guest_message(object: &[u8]) -> Result<GuestMessage, MalformedMessage> {
    Ok(serde_json::from_slice(object)?)
}

/// Reads what a host sent. As in QMP a member that this version does not know
/// is an error: a request that is only half understood must not run.
pub fn parse_request(object: &[u8]) -> Result<Request, MalformedMessage> {
    Ok(serde_json::from_slice(object)?)
}

impl<'de> Deserialize<'de> for GuestMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Envelope::default())
    }
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum EventName {
    Hello,
    Heartbeat,
    Report,
    Lifecycle,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Member {
    Event,
    Data,
    Timestamp,
    Return,
    Error,
    Id,
    #[serde(other)]
    Unknown,
}

/// The members that were read so far.
#[derive(Default)]
struct Envelope {
    name: Option<EventName>,
    data: Option<Value>,
    event: Option<Event>,
    timestamp: Option<Timestamp>,
    outcome: Option<Outcome>,
    id: Option<Value>,
}

impl<'de> Visitor<'de> for Envelope {
    type Value = GuestMessage;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event, a return or an error")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<GuestMessage, A::Error> {
        while let Some(member) = map.next_key()? {
            match member {
                Member::Event => once(&mut self.name, "event", map.next_value()?)?,
                Member::Data => match self.name {
                    _ if self.event.is_some() => return Err(Error::duplicate_field("data")),
                    Some(name) => self.event = Some(read_data(name, &mut map)?),
                    None => once(&mut self.data, "data", map.next_value()?)?,
                },
                Member::Timestamp => once(&mut self.timestamp, "timestamp", map.next_value()?)?,
                Member::Return | Member::Error if self.outcome.is_some() => {
                    return Err(Error::custom("more than one return or error"));
                }
                Member::Return => self.outcome = Some(Outcome::Return(map.next_value()?)),
                Member::Error => self.outcome = Some(Outcome::Error(map.next_value()?)),
                Member::Id => once(&mut self.id, "id", map.next_value::<Value>()?)?,
                Member::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.finish()
    }
}

impl Envelope {
    fn finish<E: Error>(self) -> Result<GuestMessage, E> {
        match (self.name, self.outcome) {
            (Some(_), Some(_)) => Err(E::custom("both an event and a reply")),
            (None, None) => Err(E::custom("neither an event, a return nor an error")),
            (None, Some(outcome)) => Ok(GuestMessage::Reply(Reply { outcome, id: self.id })),
            (Some(name), None) => {
                let event = match (self.event, self.data) {
                    (Some(_), Some(_)) => return Err(E::duplicate_field("data")),
                    (Some(event), None) => event,
                    (None, Some(data)) => from_data(name, data).map_err(E::custom)?,
                    (None, None) => return Err(E::missing_field("data")),
                };
                let timestamp = self.timestamp.ok_or_else(|| E::missing_field("timestamp"))?;
                Ok(GuestMessage::Event(TimedEvent { event, timestamp }))
            }
        }
    }
}

fn once<T, E: Error>(slot: &mut Option<T>, member: &'static str, value: T) -> Result<(), E> {
    if slot.is_some() {
        return Err(E::duplicate_field(member));
    }
    *slot = Some(value);
    Ok(())
}

fn read_data<'de, A: MapAccess<'de>>(name: EventName, map: &mut A) -> Result<Event, A::Error> {
    Ok(match name {
        EventName::Hello => Event::Hello(map.next_value()?),
        EventName::Heartbeat => Event::Heartbeat(map.next_value()?),
        EventName::Report => Event::Report(map.next_value()?),
        EventName::Lifecycle => Event::Lifecycle(map.next_value()?),
    })
}

fn from_data(name: EventName, data: Value) -> Result<Event, serde_json::Error> {
    Ok(match name {
        EventName::Hello => Event::Hello(serde_json::from_value(data)?),
        EventName::Heartbeat => Event::Heartbeat(serde_json::from_value(data)?),
        EventName::Report => Event::Report(serde_json::from_value(data)?),
        EventName::Lifecycle => Event::Lifecycle(serde_json::from_value(data)?),
    })
}
