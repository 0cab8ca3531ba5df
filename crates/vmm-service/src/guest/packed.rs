//! One guest's JSON, packed into a single piece of memory: a tenth of what a
//! [`Value`] takes, whose every object is a tree and every key a string of its
//! own. A patch is merged by one pass over the bytes, in which what it does not
//! name is copied as it stands.
//!
//! A value is a tag and what follows: for a number its digits in base 128 or
//! eight bytes, for a string its length and its bytes, for an array or object
//! the length of all that it holds in four bytes. An object's members are
//! sorted by key. Only this module writes packed bytes, so reading them cannot
//! fail.

use serde_json::{Map, Number, Value};

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
/// A whole number that is not negative.
const NATURAL: u8 = 3;
/// A negative one: what follows is its distance from -1.
const NEGATIVE: u8 = 4;
const FRACTION: u8 = 5;
const STRING: u8 = 6;
const ARRAY: u8 = 7;
const OBJECT: u8 = 8;

/// The bytes of a container's length.
const LENGTH_BYTES: usize = 4;

/// Why reading packed bytes cannot fail.
const WHOLE: &str = "packed bytes are whole";

/// Writes what `patch` makes of the packed object `target` by RFC 7386; without
/// a target, of nothing. What is no object in `patch` is written as it is.
pub(super) fn merge(target: Option<&[u8]>, patch: &Value, out: &mut Vec<u8>) {
    let Value::Object(patch) = patch else {
        write(patch, out);
        return;
    };
    let target = target.filter(|target| target[0] == OBJECT);
    let mut members = target.map_or(&[][..], |target| &target[1 + LENGTH_BYTES..]);
    container(OBJECT, out, |out| {
        for (key, change) in sorted(patch) {
            let mut old = None;
            while let Some((member, rest)) = Member::first(members) {
                if member.key > key.as_bytes() {
                    break;
                }
                members = rest;
                if member.key == key.as_bytes() {
                    old = Some(member.value);
                    break;
                }
                out.extend_from_slice(member.bytes);
            }
            if !change.is_null() {
                text(key, out);
                merge(old, change, out);
            }
        }
        out.extend_from_slice(members);
    });
}

/// The value that was packed.
pub(super) fn unpack(packed: &[u8]) -> Value {
    let mut rest = &packed[1..];
    match packed[0] {
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        NATURAL => Value::from(take_natural(&mut rest)),
        NEGATIVE => Value::from(-1 - i64::try_from(take_natural(&mut rest)).expect(WHOLE)),
        FRACTION => {
            let bits = f64::from_le_bytes(rest.try_into().expect(WHOLE));
            // A number that came out of JSON is finite.
            Number::from_f64(bits).map_or(Value::Null, Value::Number)
        }
        STRING => Value::String(string(take_text(&mut rest))),
        ARRAY => {
            rest = &rest[LENGTH_BYTES..];
            let mut elements = Vec::new();
            while !rest.is_empty() {
                let (element, after) = rest.split_at(length(rest));
                elements.push(unpack(element));
                rest = after;
            }
            Value::Array(elements)
        }
        _ => Value::Object(self::members(packed).collect()),
    }
}

/// A member of a packed object.
pub(super) fn member(packed: &[u8], key: &str) -> Option<Value> {
    let mut members = &packed[1 + LENGTH_BYTES..];
    while let Some((member, rest)) = Member::first(members) {
        if member.key == key.as_bytes() {
            return Some(unpack(member.value));
        }
        members = rest;
    }
    None
}

fn members(packed: &[u8]) -> impl Iterator<Item = (String, Value)> {
    let mut members = &packed[1 + LENGTH_BYTES..];
    std::iter::from_fn(move || {
        let (member, rest) = Member::first(members)?;
        members = rest;
        Some((string(member.key), unpack(member.value)))
    })
}

struct Member<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// Both, as they stand there.
    bytes: &'a [u8],
}

impl<'a> Member<'a> {
    /// The first member of an object's inside, and what follows it.
    fn first(members: &'a [u8]) -> Option<(Self, &'a [u8])> {
        if members.is_empty() {
            return None;
        }
        let mut rest = members;
        let key = take_text(&mut rest);
        let (value, after) = rest.split_at(length(rest));
        let bytes = &members[..members.len() - after.len()];
        Some((Self { key, value, bytes }, after))
    }
}

/// Writes a value as it is, nulls and all.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Number(number) => write_number(number, out),
        Value::String(string) => {
            out.push(STRING);
            text(string, out);
        }
        Value::Array(elements) => {
            container(ARRAY, out, |out| elements.iter().for_each(|element| write(element, out)));
        }
        Value::Object(members) => container(OBJECT, out, |out| {
            for (key, member) in sorted(members) {
                text(key, out);
                write(member, out);
            }
        }),
    }
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    if let Some(natural) = number.as_u64() {
        out.push(NATURAL);
        write_natural(natural, out);
    } else if let Some(negative) = number.as_i64() {
        out.push(NEGATIVE);
        write_natural(negative.abs_diff(-1), out);
    } else {
        out.push(FRACTION);
        out.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
    }
}

fn container(tag: u8, out: &mut Vec<u8>, inside: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    inside(out);
    let length = out.len() - at - LENGTH_BYTES;
    let length = u32::try_from(length).expect("the limits on facts are far below 4 GiB");
    out[at..at + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

fn text(text: &str, out: &mut Vec<u8>) {
    write_natural(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Seven bits a byte, the least first; the eighth says that more follow.
fn write_natural(mut natural: u64, out: &mut Vec<u8>) {
    while natural >= 0x80 {
        out.push(natural as u8 | 0x80);
        natural >>= 7;
    }
    out.push(natural as u8);
}

fn take_natural(bytes: &mut &[u8]) -> u64 {
    let mut natural = 0;
    for place in 0.. {
        let byte = bytes[place];
        natural |= u64::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            *bytes = &bytes[place + 1..];
            break;
        }
    }
    natural
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(take_natural(bytes)).expect(WHOLE);
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    text
}

/// How many bytes the value takes that stands at the beginning.
fn length(packed: &[u8]) -> usize {
    let mut rest = &packed[1..];
    let inside = match packed[0] {
        NULL | FALSE | TRUE => 0,
        NATURAL | NEGATIVE => {
            take_natural(&mut rest);
            0
        }
        FRACTION => size_of::<f64>(),
        STRING => usize::try_from(take_natural(&mut rest)).expect(WHOLE),
        _ => {
            let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>().expect(WHOLE);
            rest = after;
            u32::from_le_bytes(*length) as usize
        }
    };
    packed.len() - rest.len() + inside
}

fn string(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).expect("only strings were packed").to_owned()
}

/// By key: so they come already, unless some crate asks serde_json to keep the
/// order in which they were written.
fn sorted(members: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    debug_assert!(members.keys().is_sorted(), "the feature preserve_order is on");
    members.iter()
}

#[cfg(test)]
mod tests {
    use guest_protocol::merge_patch;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,200}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-d]|\\PC{0,3}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn packed_patches_do_what_merge_patch_does(
            patches in prop::collection::vec(value(), 1..6),
        ) {
            let (mut expected, mut packed) = (Value::Null, Vec::new());
            for patch in patches {
                merge_patch::apply(&mut expected, &patch);
                let mut merged = Vec::new();
                merge((!packed.is_empty()).then_some(&packed[..]), &patch, &mut merged);
                packed = merged;
                prop_assert_eq!(length(&packed), packed.len());
                prop_assert_eq!(unpack(&packed), expected.clone());
                if let Value::Object(members) = &expected {
                    for (key, value) in members {
                        prop_assert_eq!(member(&packed, key), Some(value.clone()));
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_come_back_as_they_were() {
        let numbers = json!([0, 127, 128, u64::MAX, -1, -128, i64::MIN, 0.5, -0.0, 1e300]);
        let mut packed = Vec::new();
        merge(None, &numbers, &mut packed);
        assert_eq!(unpack(&packed).to_string(), numbers.to_string());
    }
}
