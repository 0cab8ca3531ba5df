//! Messages to bytes: compact JSON and a newline, appended to a buffer that
//! the caller may use again. Apart from parsing because each program encodes
//! one direction and parses the other.

use serde::Serialize;

use crate::message::{Reply, Request, TimedEvent};

/// Appends a request, as the host sends it, to `out`.
pub fn encode_request(request: &Request, out: &mut Vec<u8>) {
    encode(request, out);
}

/// Appends an event, as the guest sends it, to `out`.
pub fn encode_event(event: &TimedEvent, out: &mut Vec<u8>) {
    encode(event, out);
}

/// Appends a reply, as the guest sends it, to `out`.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    encode(reply, out);
}

fn encode(message: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, message)
        .expect("a message's keys are strings and memory does not refuse to be written");
    out.push(b'\n');
}
