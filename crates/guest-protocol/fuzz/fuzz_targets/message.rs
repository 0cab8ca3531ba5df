//! The message parsers under arbitrary bytes: no panic, explanations that are
//! safe to show, and a message that was read is read the same after it was
//! written.
#![no_main]

use guest_protocol::codec::{
    MalformedMessage, encode_event, encode_reply, encode_request, parse_guest_message,
    parse_request,
};
use guest_protocol::message::GuestMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match parse_guest_message(input) {
        Ok(message) => {
            // Reading a fraction may miss its last digit, so writing settles it
            // before it is compared.
            let once = write(&message);
            let again = parse_guest_message(&once).expect("what we write we read");
            let twice = write(&again);
            let settled = parse_guest_message(&twice).expect("what we write we read");
            if !has_fraction(&once) {
                assert_eq!(message, again);
                assert_eq!(again, settled);
            }
        }
        Err(refusal) => check_refusal(&refusal),
    }
    match parse_request(input) {
        Ok(request) => {
            let mut written = Vec::new();
            encode_request(&request, &mut written);
            let again = parse_request(&written).expect("what we write we read");
            if !has_fraction(&written) {
                // Absent and null are told apart nowhere.
                assert_eq!(request.execute, again.execute);
                assert_eq!(request.arguments, again.arguments);
                assert_eq!(request.id, again.id);
            }
        }
        Err(refusal) => check_refusal(&refusal),
    }
});

fn write(message: &GuestMessage) -> Vec<u8> {
    let mut written = Vec::new();
    match message {
        GuestMessage::Event(event) => encode_event(event, &mut written),
        GuestMessage::Reply(reply) => encode_reply(reply, &mut written),
    }
    assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), 1, "one line");
    written
}

/// Whether a number in it may not be exact.
fn has_fraction(written: &[u8]) -> bool {
    written.windows(2).any(|pair| pair[0].is_ascii_digit() && matches!(pair[1], b'.' | b'e' | b'E'))
}

fn check_refusal(refusal: &MalformedMessage) {
    let text = refusal.to_string();
    assert!(!text.contains(char::is_control), "not safe to show: {text:?}");
    assert!(text.len() < 4_000, "a long explanation");
}
