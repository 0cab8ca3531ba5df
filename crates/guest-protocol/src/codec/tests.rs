//! What the decoder promises, as examples and as properties. Apart from it
//! because the promises are longer than the code that keeps them.

use proptest::prelude::*;
use serde_json::Value;

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
fn a_broken_object_is_noticed_at_the_first_impossible_byte() {
    let broken = [
        "{!",
        "{1",
        "{,",
        "{:",
        "{]",
        "{{",
        "{[",
        "{\"a\"!",
        "{\"a\"}",
        "{\"a\",",
        "{\"a\"\"",
        "{\"a\":}",
        "{\"a\":,",
        "{\"a\":]",
        "{\"a\"::",
        "{\"a\":1:",
        "{\"a\":1]",
        "{\"a\":1\"",
        "{\"a\":1{",
        "{\"a\":1 2",
        "{\"a\":1,}",
        "{\"a\":1,,",
        "{\"a\":1,1",
        "{\"a\":1,{",
        "{\"a\":\"\"\"",
        "{\"a\":\"\":",
        "{\"a\":{}1",
        "{\"a\":[}",
        "{\"a\":[,",
        "{\"a\":[:",
        "{\"a\":[1}",
        "{\"a\":[1:",
        "{\"a\":[1,]",
        "{\"a\":[1,,",
        "{\"a\":[1,}",
        "{\"a\":[{]",
        "{\"a\":[{}}",
        "{\"a\":[]]",
        "{\"a\":[\"b\":",
        "{\"a\":'",
        "{\"a\":\"\t",
        "{\"a\":\"\n",
        "{\"a\":\"\u{1}",
        "{\"a\":\"\\x",
        "{\"\\\"\n",
        "{\"a\":\u{c}",
        "{\u{0}",
    ];
    for text in broken {
        let mut structure = Structure::new(limits::MAX_DEPTH);
        assert_eq!(structure.run(text.as_bytes()), Progress::Broken, "{text:?}");
        assert_eq!(structure.taken(), text.len() - 1, "{text:?}");
    }
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

/// Arrays, and objects with one member each: what takes the most memory for
/// its bytes.
#[test]
fn wide_json_is_refused_before_anybody_parses_it() {
    let facts = |inner: &str| format!("{{\"a\":[{inner}]}}");
    let wide = [
        facts(&vec!["0"; 500_000].join(",")),
        facts(&vec!["\"\""; 300_000].join(",")),
        facts(&vec!["{\"\":0}"; 140_000].join(",")),
        facts(&vec!["[]"; 300_000].join(",")),
        format!("{{{}}}", vec!["\"\":0"; 180_000].join(",")),
    ];
    for text in wide {
        assert!(text.len() < limits::MAX_OBJECT_BYTES, "{}", text.len());
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in (text.clone() + "\n{}\n").as_bytes().chunks(MAX_FEED_BYTES) {
            decoder.feed(chunk);
            frames.extend(drain(&mut decoder));
        }
        assert_eq!(frames, [Owned::Discarded(Discard::TooWide, text.len() + 1), object("{}")]);
    }
}

#[test]
fn facts_at_their_limits_pass_with_their_envelope() {
    let values = limits::MAX_FACTS_VALUES - limits::MAX_FACTS_KEYS - limits::MAX_FACTS_CONTAINERS;
    let keys = (0..limits::MAX_FACTS_KEYS).map(|key| format!("\"{key}\":0"));
    let text = format!(
        "{{\"event\":{{\"facts\":{{\"a\":[[{}],{}],{}}}}}}}",
        vec!["{}"; limits::MAX_FACTS_CONTAINERS].join(","),
        vec!["1"; values].join(","),
        keys.collect::<Vec<_>>().join(","),
    );
    let mut decoder = Decoder::default();
    for chunk in text.as_bytes().chunks(MAX_FEED_BYTES) {
        assert_eq!(drain(&mut decoder), []);
        decoder.feed(chunk);
    }
    assert_eq!(drain(&mut decoder), [object(&text)]);
}

/// The decoder promises less than this between feeds.
fn assert_bounded(decoder: &Decoder) {
    assert!(decoder.buffered() < decoder.max_bytes, "{} bytes held", decoder.buffered());
    let most = RETAINED_BYTES.max(decoder.max_bytes + MAX_FEED_BYTES);
    assert!(decoder.buffer.capacity() <= most, "{} bytes reserved", decoder.buffer.capacity());
}

#[test]
fn a_line_without_end_is_dropped_as_it_comes() {
    for line in [&b"x"[..], b"\"", b"{", b"{\"a\":\"", b"{\"a\":1", b"{\"a\":[1,"] {
        let mut decoder = Decoder::default();
        decoder.feed(line);
        let mut frames = drain(&mut decoder);
        for _ in 0..80 {
            decoder.feed(&[b'1'; MAX_FEED_BYTES]);
            frames.extend(drain(&mut decoder));
            assert_bounded(&decoder);
        }
        decoder.feed(b"\n{}\n");
        frames.extend(drain(&mut decoder));
        assert_eq!(frames.pop(), Some(object("{}")));
        let dropped: usize = frames
            .iter()
            .map(|frame| match frame {
                Owned::Discarded(_, bytes) => *bytes,
                other => panic!("{other:?} from {line:?}"),
            })
            .sum();
        assert_eq!(dropped, line.len() + 80 * MAX_FEED_BYTES + 1);
        assert!(frames.len() <= 7, "told {} times", frames.len());
        let too_long = Owned::Discarded(Discard::TooLong, limits::MAX_OBJECT_BYTES);
        let refusals = frames.iter().filter(|frame| **frame == too_long).count();
        assert_eq!(refusals, usize::from(line.len() > 1 && line[0] == b'{'));
    }
}

#[test]
fn memory_is_given_back_when_nothing_is_open() {
    let mut decoder = Decoder::default();
    let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(900_000));
    for chunk in long.as_bytes().chunks(MAX_FEED_BYTES) {
        decoder.feed(chunk);
        if decoder.buffered() < long.len() {
            assert_eq!(drain(&mut decoder), []);
        }
    }
    assert_eq!(drain(&mut decoder), [object(long.trim_end())]);
    assert_eq!(decoder.buffered(), 0);
    assert!(decoder.buffer.capacity() <= RETAINED_BYTES);
}

#[test]
fn memory_is_given_back_when_little_is_open() {
    let mut decoder = Decoder::default();
    decoder.feed(format!("{{\"a\":\"{}\"}}\n{{\"b\":", "x".repeat(60_000)).as_bytes());
    assert_eq!(drain(&mut decoder).len(), 1);
    decoder.feed(b"1");
    assert_eq!(drain(&mut decoder), []);
    assert!(decoder.buffer.capacity() <= RETAINED_BYTES);
}

/// Bytes looked at for each byte fed, at worst.
fn effort(input: &[u8], feed: usize) -> usize {
    let mut decoder = Decoder::default();
    for chunk in input.chunks(feed) {
        decoder.feed(chunk);
        drain(&mut decoder);
        assert_bounded(&decoder);
    }
    decoder.take_work().div_ceil(input.len())
}

#[test]
fn hostile_input_costs_no_more_than_the_depth_allows() {
    let deep = [
        "{\"a\":[\n".repeat(40_000),
        "{\"a\":\n".repeat(40_000),
        "{\n\"a\":\n".repeat(40_000),
        "{\"a\":[\n{\"b\":1},\n".repeat(20_000),
        "{\"a\":[1,\n2,\n".repeat(20_000),
        "{\n\"".repeat(60_000),
        // Objects within objects, as deep as may be, and then a long way to
        // the byte that breaks them all.
        ("{\"a\":\n".repeat(31) + "[" + &"1,\n".repeat(30_000) + "!").repeat(3),
        ("{\"a\":\n".repeat(31) + "[" + &"{},\n".repeat(300_000)),
        "{\"a\":[\n".repeat(16) + &"{\"b\":[{}]},\n".repeat(20_000),
    ];
    for input in deep {
        let bound = limits::MAX_DEPTH + 2;
        let effort = effort(input.as_bytes(), MAX_FEED_BYTES);
        assert!(effort <= bound, "{effort} looks a byte at {:?}", &input[..20]);
    }
}

#[test]
fn good_input_is_looked_at_once() {
    let input = "{\"event\":\"HEARTBEAT\",\"data\":{\"seq\":[1,2,3]}}\n".repeat(20_000);
    assert!(effort(input.as_bytes(), MAX_FEED_BYTES) <= 2);
}

/// Pieces that make structure likely, among bytes that break it.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            "\n",
            " ",
            "1",
            "{\"a\":",
            "{\"a\":[\n",
            "\"b\":",
            "{}",
            "{\"a\":1}",
            "\n{\"x\":[1]}\n",
            "\\u00",
            "null",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
        Just(vec![RESET]),
    ];
    prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

/// Lines of garbage without the reset byte.
fn garbage_lines() -> impl Strategy<Value = Vec<u8>> {
    soup().prop_map(|mut bytes| {
        bytes.retain(|&byte| byte != RESET);
        bytes.push(b'\n');
        bytes
    })
}

fn json_object() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("}\"]{\\")),
    ];
    let value = leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    prop::collection::hash_map(any::<String>(), value, 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()).to_string())
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_frames(
        input in soup(),
        cuts in prop::collection::vec(1_usize..9, 1..40),
        max_bytes in 1_usize..200,
        max_depth in 0_usize..6,
    ) {
        let mut whole = Decoder::new(max_bytes, max_depth);
        whole.feed(&input);
        let expected = drain(&mut whole);
        let mut decoder = Decoder::new(max_bytes, max_depth);
        let mut frames = Vec::new();
        let mut rest = &input[..];
        for cut in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at(rest.len().min(*cut));
            decoder.feed(chunk);
            frames.extend(drain(&mut decoder));
            assert_bounded(&decoder);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(frames, expected);
        prop_assert_eq!(decoder.buffered(), whole.buffered());
        prop_assert!(decoder.take_work() <= (input.len() + 1) * (max_depth + 4));
    }

    #[test]
    fn every_byte_is_told_once(input in soup(), max_bytes in 1_usize..200) {
        let mut decoder = Decoder::new(max_bytes, 4);
        decoder.feed(&input);
        let told: usize = drain(&mut decoder).iter().map(|frame| match frame {
            Owned::Object(text) => {
                // Lossy text may be longer than what it was made from.
                if text.contains('\u{FFFD}') { 0 } else { text.len() }
            }
            Owned::Sync => 1,
            Owned::Discarded(_, bytes) => *bytes,
        }).sum();
        prop_assert!(told + decoder.buffered() <= input.len());
    }

    #[test]
    fn whatever_is_json_is_found(objects in prop::collection::vec(json_object(), 1..6)) {
        let expected: Vec<_> = objects.iter().map(|text| object(text)).collect();
        prop_assert_eq!(decode(objects.concat().as_bytes()), expected);
    }

    #[test]
    fn objects_after_any_garbage_come_out(
        junk in garbage_lines(), objects in prop::collection::vec(json_object(), 2..5),
    ) {
        let mut input = junk;
        input.extend(objects.join("\n").as_bytes());
        let frames = decode(&input);
        let expected: Vec<_> = objects.iter().map(|text| object(text)).collect();
        prop_assert!(frames.ends_with(&expected), "{frames:?}");
    }

    /// An object is missing only where lines of garbage before and after it
    /// make up one larger object together with it.
    #[test]
    fn garbage_between_costs_only_the_objects_that_it_encloses(
        parts in prop::collection::vec((garbage_lines(), json_object()), 1..6),
    ) {
        let mut input = Vec::new();
        for (number, (junk, text)) in parts.iter().enumerate() {
            input.extend(junk);
            input.extend(format!("{{\"n\":{number},\"o\":{text}}}\n").as_bytes());
        }
        input.extend(b"{\"last\":1}\n{\"last\":2}\n");
        let frames = decode(&input);
        for (number, (_, text)) in parts.iter().enumerate() {
            let expected = format!("{{\"n\":{number},\"o\":{text}}}");
            let found = frames.iter().any(|frame| match frame {
                Owned::Object(found) if *found == expected => true,
                Owned::Object(found) => found.contains(&format!("\n{expected}\n")),
                _ => false,
            });
            prop_assert!(found, "{expected} in {frames:?}");
        }
        let last = [object("{\"last\":1}"), object("{\"last\":2}")];
        prop_assert!(frames.ends_with(&last));
    }

    #[test]
    fn after_the_reset_byte_the_next_object_comes_out(input in soup()) {
        let mut input = input;
        input.extend(b"\xFF{\"known\":1}");
        let expected = [Owned::Sync, object("{\"known\":1}")];
        prop_assert!(decode(&input).ends_with(&expected));
    }
}
