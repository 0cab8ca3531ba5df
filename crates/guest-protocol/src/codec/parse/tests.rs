//! What is read as a message and what is refused, and how. Apart from the
//! parser because the cases are longer than it is.

use serde_json::json;

use super::*;
use crate::codec::{Decoder, Frame, encode_event};
use crate::message::{Heartbeat, Lifecycle, Stage};

fn heartbeat() -> GuestMessage {
    GuestMessage::Event(TimedEvent {
        event: Event::Heartbeat(Heartbeat {
            seq: 7,
            session: "s".into(),
            clock: Timestamp { seconds: 1, microseconds: 2 },
        }),
        timestamp: Timestamp { seconds: 3, microseconds: 4 },
    })
}

fn refusal(text: &str) -> String {
    parse_guest_message(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_members_may_come_in_any_order() {
    let members = [
        r#""event":"HEARTBEAT""#,
        r#""data":{"seq":7,"session":"s","clock":{"seconds":1,"microseconds":2}}"#,
        r#""timestamp":{"seconds":3,"microseconds":4}"#,
        r#""added-later":[{}]"#,
    ];
    for order in [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 3, 0], [3, 2, 1, 0], [3, 0, 2, 1]] {
        let text = format!("{{{}}}", order.map(|member| members[member]).join(","));
        assert_eq!(parse_guest_message(text.as_bytes()), Ok(heartbeat()), "{text}");
    }
}

#[test]
fn a_reply_keeps_any_id() {
    for id in [json!(1), json!("x"), json!([null]), json!({"a": 1}), Value::Null] {
        let text = json!({"return": {}, "id": id}).to_string();
        let reply = Reply { outcome: Outcome::Return(json!({})), id: Some(id) };
        assert_eq!(parse_guest_message(text.as_bytes()), Ok(GuestMessage::Reply(reply)));
    }
}

#[test]
fn a_return_of_null_is_a_return() {
    let reply = Reply { outcome: Outcome::Return(Value::Null), id: None };
    assert_eq!(parse_guest_message(br#"{"return":null}"#), Ok(GuestMessage::Reply(reply)));
}

#[test]
fn what_is_no_message_is_refused_with_the_reason() {
    let cases = [
        ("{}", "neither an event, a return nor an error"),
        (r#"{"return":1,"return":2}"#, "more than one return or error"),
        (r#"{"return":1,"error":{"class":"GenericError","desc":""}}"#, "more than one return"),
        (r#"{"event":"HELLO","return":1}"#, "both an event and a reply"),
        (r#"{"event":"HEARTBEAT"}"#, "missing field `data`"),
        (r#"{"event":"NEWS","data":{}}"#, "unknown variant `NEWS`"),
        (r#"{"event":"HELLO","event":"HELLO"}"#, "duplicate field `event`"),
        (r#"{"data":1,"data":1}"#, "duplicate field `data`"),
        (r#"{"id":1,"id":1}"#, "duplicate field `id`"),
        (r#"{"return":01}"#, "not JSON"),
        (r#"{"return":"\ud800"}"#, "not JSON"),
    ];
    for (text, reason) in cases {
        let refusal = refusal(text);
        assert!(refusal.contains(reason), "{text}: {refusal}");
    }
    let data = r#"{"seq":7,"session":"s","clock":{"seconds":1,"microseconds":2}}"#;
    let twice = format!(r#"{{"event":"HEARTBEAT","data":{data},"data":{data}}}"#);
    assert!(refusal(&twice).contains("duplicate field `data`"));
    let around = format!(r#"{{"data":{data},"event":"HEARTBEAT","data":{data}}}"#);
    assert!(refusal(&around).contains("duplicate field `data`"));
    let timeless = format!(r#"{{"event":"HEARTBEAT","data":{data}}}"#);
    assert!(refusal(&timeless).contains("missing field `timestamp`"));
}

#[test]
fn invalid_utf8_is_refused() {
    assert!(matches!(
        parse_guest_message(b"{\"return\":\"\xC0\x80\"}"),
        Err(MalformedMessage::Syntax(_))
    ));
}

#[test]
fn a_refusal_is_safe_to_show() {
    let text = format!(r#"{{"event":"\u001b[2J\u009b\u202e{}","data":{{}}}}"#, "x".repeat(9_000));
    let refusal = refusal(&text);
    assert!(refusal.len() < 1_000, "{refusal}");
    assert!(refusal.is_ascii(), "{refusal}");
    assert!(!refusal.contains(char::is_control), "{refusal:?}");
}

#[test]
fn terminal_escapes_in_strings_pass_untouched() {
    let hostile = "\u{1b}[2J\u{9b}31m\u{7}\r\n\0\"\\\u{202e}";
    let message = GuestMessage::Event(TimedEvent {
        event: Event::Lifecycle(Lifecycle {
            stage: Stage::AddressAcquired,
            uptime_ms: 1,
            detail: Some(json!({ hostile: hostile })),
        }),
        timestamp: Timestamp { seconds: 0, microseconds: 0 },
    });
    let GuestMessage::Event(event) = &message else { unreachable!("made above") };
    let mut bytes = Vec::new();
    encode_event(event, &mut bytes);
    let mut decoder = Decoder::default();
    decoder.feed(&bytes);
    let Some(Frame::Object(object)) = decoder.next_frame() else { panic!("no object") };
    assert_eq!(parse_guest_message(object), Ok(message));
}

#[test]
fn a_request_with_a_member_too_many_is_refused() {
    let refusal = parse_request(br#"{"execute":"guest-ping","exec-oob":1}"#).unwrap_err();
    assert!(refusal.to_string().contains("unknown field `exec-oob`"), "{refusal}");
    assert!(parse_request(br#"{"execute":"guest-ping","id":[1]}"#).is_ok());
    // Null is an id like any other, and comes back.
    let request = parse_request(br#"{"execute":"guest-ping","id":null}"#).unwrap();
    assert_eq!(request.id, Some(Value::Null));
    assert_eq!(parse_request(br#"{"execute":"guest-ping"}"#).unwrap().id, None);
}
