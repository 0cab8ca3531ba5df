//! The decoder under arbitrary bytes: bounded memory, the same frames for any
//! cut, every byte told at most once, resynchronisation, and that what is JSON
//! is found and comes out as it went in.
#![no_main]

use guest_protocol::codec::{Decoder, Frame, RESET};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// What must come out after any input at all.
const KNOWN: &[u8] = br#"{"known":[1]}"#;

/// A frame that outlives the decoder's buffer.
#[derive(Debug, PartialEq)]
enum Owned {
    Object(Vec<u8>),
    Sync,
    Discarded(usize),
}

fuzz_target!(|input: &[u8]| {
    // The first bytes choose the limits and the cuts.
    let [small_bytes, depth, cut, cut_more, stream @ ..] = input else { return };
    let max_bytes = match small_bytes {
        0..=127 => KNOWN.len() + usize::from(*small_bytes),
        _ => 1024 * 1024,
    };
    let max_depth = 2 + usize::from(depth % 31);
    let whole = decode(stream, &[stream.len().max(1)], max_bytes, max_depth);
    let cuts = [1 + usize::from(*cut), 1 + usize::from(*cut_more)];
    assert_eq!(whole, decode(stream, &cuts, max_bytes, max_depth), "cut by {cuts:?}");

    for frame in &whole {
        if let Owned::Object(object) = frame {
            check_object(object, max_bytes, max_depth);
        }
    }
    check_json(stream, max_bytes, max_depth);
});

/// Feeds `stream` cut in pieces of the sizes in `cuts`, in turn.
fn decode(stream: &[u8], cuts: &[usize], max_bytes: usize, max_depth: usize) -> Vec<Owned> {
    let mut decoder = Decoder::new(max_bytes, max_depth);
    let mut frames = Vec::new();
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*cut));
        decoder.feed(piece);
        assert!(decoder.buffered() < max_bytes + piece.len().max(1), "more than the bound");
        drain(&mut decoder, &mut frames);
        assert!(decoder.buffered() < max_bytes, "more than the bound between feeds");
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let told: usize = frames
        .iter()
        .map(|frame| match frame {
            Owned::Object(object) => object.len(),
            Owned::Sync => 1,
            Owned::Discarded(bytes) => *bytes,
        })
        .sum();
    let white = stream.iter().filter(|byte| b" \t\r\n".contains(byte)).count();
    let held = decoder.buffered();
    assert!(told + held <= stream.len(), "{told} told and {held} held of {}", stream.len());

    let before = frames.len();
    decoder.feed(b"\n\xFF");
    decoder.feed(KNOWN);
    drain(&mut decoder, &mut frames);
    let known = [Owned::Sync, Owned::Object(KNOWN.to_vec())];
    assert!(frames.ends_with(&known), "not resynchronised: {:?}", &frames[before..]);
    assert_eq!(decoder.buffered(), 0);
    // By now everything but white space has been told.
    let late: usize = frames[before..]
        .iter()
        .map(|frame| match frame {
            Owned::Discarded(bytes) => *bytes,
            _ => 0,
        })
        .sum();
    let late_objects: usize = frames[before..frames.len() - 1]
        .iter()
        .map(|frame| match frame {
            Owned::Object(object) => object.len(),
            _ => 0,
        })
        .sum();
    assert!(told + late + late_objects + white >= stream.len(), "bytes were lost untold");
    frames
}

fn drain(decoder: &mut Decoder, frames: &mut Vec<Owned>) {
    while let Some(frame) = decoder.next_frame() {
        frames.push(match frame {
            Frame::Object(object) => Owned::Object(object.to_vec()),
            Frame::Sync => Owned::Sync,
            Frame::Discarded(_, bytes) => {
                assert!(0 < bytes && bytes <= 1024 * 1024, "{bytes} bytes discarded at once");
                Owned::Discarded(bytes)
            }
        });
    }
}

/// What came out is within the limits and comes out again, alone; and if it is
/// JSON, so does what it means.
fn check_object(object: &[u8], max_bytes: usize, max_depth: usize) {
    assert!(object.len() <= max_bytes, "longer than the limit");
    assert!(!object.contains(&RESET), "a reset byte within an object");
    let mut frames = Vec::new();
    let mut decoder = Decoder::new(max_bytes, max_depth);
    decoder.feed(object);
    drain(&mut decoder, &mut frames);
    assert_eq!(frames, [Owned::Object(object.to_vec())]);

    let Ok(value) = serde_json::from_slice::<Value>(object) else { return };
    let written = value.to_string().into_bytes();
    let mut frames = Vec::new();
    let mut decoder = Decoder::default();
    decoder.feed(&written);
    drain(&mut decoder, &mut frames);
    assert_eq!(frames, [Owned::Object(written)]);
}

/// Whatever the JSON parser takes for an object is found.
fn check_json(stream: &[u8], max_bytes: usize, max_depth: usize) {
    let object = stream.trim_ascii();
    let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(object) else { return };
    if object.len() > max_bytes || depth(&value) > max_depth {
        return;
    }
    let mut frames = Vec::new();
    let mut decoder = Decoder::new(max_bytes, max_depth);
    decoder.feed(object);
    drain(&mut decoder, &mut frames);
    assert_eq!(frames, [Owned::Object(object.to_vec())]);
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
