//! The wire format of protocol version 1, byte for byte. Each file in `golden/`
//! holds one message as it stands on the wire; a change to any of them is a
//! change of the contract. `UPDATE_GOLDEN=1` writes the files anew.

mod messages;

use std::fs;
use std::path::{Path, PathBuf};

use guest_protocol::codec::{
    Decoder, Frame, encode_event, encode_reply, encode_request, parse_guest_message, parse_request,
};
use guest_protocol::facts::Facts;
use guest_protocol::message::{AgentHello, Event, GuestMessage, Request};
use messages::{Message, all, full_facts};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"))
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    match message {
        Message::ToGuest(request) => encode_request(request, &mut bytes),
        Message::ToHost(GuestMessage::Event(event)) => encode_event(event, &mut bytes),
        Message::ToHost(GuestMessage::Reply(reply)) => encode_reply(reply, &mut bytes),
    }
    bytes
}

#[test]
fn each_message_is_written_as_its_golden_file_says() {
    for (name, message) in all() {
        let bytes = encode(&message);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(golden(name), &bytes).unwrap();
        }
        let file = fs::read(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            String::from_utf8(file).unwrap(),
            "{name}: is the contract meant to change?"
        );
    }
}

#[test]
fn each_golden_file_is_read_as_its_message() {
    for (name, message) in all() {
        let file = fs::read(golden(name)).unwrap();
        let mut decoder = Decoder::default();
        decoder.feed(&file);
        let Some(Frame::Object(object)) = decoder.next_frame() else { panic!("{name}: no object") };
        match message {
            Message::ToGuest(request) => assert_eq!(parse_request(object), Ok(request), "{name}"),
            Message::ToHost(message) => {
                assert_eq!(parse_guest_message(object), Ok(message), "{name}");
            }
        }
        assert_eq!(decoder.next_frame(), None, "{name}: more than one object");
        assert_eq!(decoder.buffered(), 0, "{name}: more than one object");
    }
}

#[test]
fn each_golden_file_has_its_message() {
    let mut files: Vec<_> = fs::read_dir(golden("x").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort_unstable();
    let mut names: Vec<_> = all().into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(files, names);
}

#[test]
fn the_arguments_of_the_hello_are_typed() {
    let file = fs::read(golden("agent-hello-confirm")).unwrap();
    let Request { arguments, .. } = parse_request(&file).unwrap();
    let hello: AgentHello = serde_json::from_value(arguments.unwrap()).unwrap();
    assert_eq!(hello.peer_session.as_deref(), Some(messages::GUEST_SESSION));
}

#[test]
fn the_facts_of_a_full_report_are_typed() {
    let file = fs::read(golden("report-full")).unwrap();
    let Ok(GuestMessage::Event(event)) = parse_guest_message(&file) else { panic!("no event") };
    let Event::Report(report) = event.event else { panic!("no report") };
    assert_eq!(serde_json::from_value::<Facts>(report.facts).unwrap(), full_facts());
}

/// The prose breaks lines so that they can be read; on the wire there are none.
#[test]
fn the_examples_in_the_prose_are_golden() {
    let prose = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/channel.md");
    let prose = fs::read_to_string(prose).unwrap();
    let golden: Vec<_> = all().iter().map(|(_, message)| encode(message)).collect();
    let mut examples = 0;
    for block in prose.split("```json").skip(1) {
        let mut decoder = Decoder::default();
        decoder.feed(block.split("```").next().unwrap().as_bytes());
        while let Some(frame) = decoder.next_frame() {
            let Frame::Object(object) = frame else { panic!("{frame:?} in {block}") };
            let object = str::from_utf8(object).unwrap();
            let line: String = object.lines().map(str::trim_start).chain(["\n"]).collect();
            assert!(golden.contains(&line.into_bytes()), "not a golden file: {object}");
            examples += 1;
        }
        assert_eq!(decoder.buffered(), 0, "an unfinished example: {block}");
    }
    assert!(examples > 10, "only {examples} examples found");
}
