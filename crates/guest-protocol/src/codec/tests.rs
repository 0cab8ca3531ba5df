use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Object(String),
    Sync,
    Discarded(Discard, usize),
}

fn drain(decoder: &mut Decoder) -> Vec<Owned> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame() {
        frames.push(match frame {
            Frame::Object(bytes) => Owned::Object(String::from_utf8_lossy(bytes).into_owned()),
            Frame::Sync => Owned::Sync,
            Frame::Discarded(reason, bytes) => Owned::Discarded(reason, bytes),
        });
    }
    frames
}

fn decode(input: &[u8]) -> Vec<Owned> {
    let mut decoder = Decoder::default();
    decoder.feed(input);
    drain(&mut decoder)
}

fn object(text: &str) -> Owned {
    Owned::Object(text.to_owned())
}

fn garbage(bytes: usize) -> Owned {
    Owned::Discarded(Discard::Garbage, bytes)
}

#[test]
fn objects_need_nothing_between_them() {
    assert_eq!(
        decode(br#"{"a":1}{}{"b":[{},[]]}"#),
        [object(r#"{"a":1}"#), object("{}"), object(r#"{"b":[{},[]]}"#)]
    );
}

#[test]
fn a_broken_object_costs_no_more_than_itself() {
    assert_eq!(decode(b"{\"a\":1,{\"b\":2}"), [garbage(7), object(r#"{"b":2}"#)]);
    assert_eq!(decode(b"{\"a\":\"cut\n{\"b\":2}"), [garbage(10), object(r#"{"b":2}"#)]);
    assert_eq!(decode(b"login: root {}\n{\"b\":2}"), [garbage(15), object(r#"{"b":2}"#)]);
    assert_eq!(
        decode(b"{\"a\":[\n{\"b\":2}\n{\"c\":3}\n"),
        [garbage(7), object(r#"{"b":2}"#), object(r#"{"c":3}"#)],
    );
}

#[test]
fn the_reset_byte_drops_what_is_open() {
    assert_eq!(
        decode(b"\xFF{\"a\":\n\"x\xFF{}xyz\xFF"),
        [Owned::Sync, garbage(8), Owned::Sync, object("{}"), garbage(3), Owned::Sync]
    );
}

#[test]
fn an_object_as_long_as_the_limit_passes_and_one_longer_does_not() {
    let mut decoder = Decoder::new(8, 32);
    decoder.feed(b"{\"a\":12}{\"a\":123}456}\n{}");
    assert_eq!(
        drain(&mut decoder),
        [object(r#"{"a":12}"#), Owned::Discarded(Discard::TooLong, 8), garbage(6), object("{}")],
    );
}

#[test]
fn a_line_ten_thousand_deep_is_one_refusal_and_the_next_object_comes_out() {
    let mut line = b"{\"a\":".repeat(10_000);
    line.extend(b"1");
    line.extend(b"}".repeat(10_000));
    line.extend(b"\n{}");
    assert_eq!(decode(&line), [Owned::Discarded(Discard::TooDeep, 60_002), object("{}")]);
}

#[test]
fn depth_thirty_two_passes() {
    let text = format!("{{\"a\":{}{}}}", "[".repeat(31), "]".repeat(31));
    assert_eq!(decode(text.as_bytes()), [object(&text)]);
}
