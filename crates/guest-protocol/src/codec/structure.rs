//! A pushdown automaton that follows the structure of one JSON object. Apart
//! from the decoder because it knows nothing of streams, limits on length or
//! resynchronisation: it only says where the object ends or breaks.
//!
//! It is strict about structure, so that a broken object is noticed at the
//! first impossible byte, and loose about scalars (`1-e.x` passes): what is
//! inside is the parser's to judge, and the parser sees only whole objects.

use crate::limits::{ENVELOPE_VALUES, MAX_FACTS_CONTAINERS, MAX_FACTS_KEYS, MAX_FACTS_VALUES};

/// How far one call of [`Structure::run`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All bytes were taken and the object is still open.
    Open,
    /// The last byte taken closed the object.
    Closed,
    /// The byte after those taken cannot stand there.
    Broken,
    /// The byte after those taken would nest too deeply.
    TooDeep,
    /// The byte after those taken would begin a key, value or container too
    /// many.
    TooWide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the outermost brace.
    Start,
    /// After `{`: a key or the closer.
    FirstKey,
    /// After `,` in an object.
    Key,
    /// After a key.
    Colon,
    /// After `[`: a value or the closer.
    FirstElement,
    /// After `:`, or after `,` in an array.
    Value,
    /// After a value: `,` or the closer.
    AfterValue,
    /// In a number, `true`, `false` or `null`.
    Scalar,
    /// In a string; `key` says what follows it.
    String { key: bool },
    /// After a backslash in a string.
    Escape { key: bool },
}

/// How much an object holds, at all levels together. Once parsed it takes up
/// to a hundred times its text in memory; these counts bound that, and so are
/// kept before anybody parses.
#[derive(Clone, Copy, Debug, Default)]
struct Width {
    keys: usize,
    values: usize,
    containers: usize,
}

impl Width {
    fn fits(self) -> bool {
        self.keys <= MAX_FACTS_KEYS + ENVELOPE_VALUES
            && self.values <= MAX_FACTS_VALUES + ENVELOPE_VALUES
            && self.containers <= MAX_FACTS_CONTAINERS + ENVELOPE_VALUES
    }
}

/// The automaton: where it stands in one object.
#[derive(Debug)]
pub(super) struct Structure {
    max_depth: usize,
    open: Vec<Container>,
    state: State,
    width: Width,
    taken: usize,
    first_newline: Option<usize>,
}

impl Structure {
    pub(super) fn new(max_depth: usize) -> Self {
        Self {
            max_depth,
            open: Vec::new(),
            state: State::Start,
            width: Width::default(),
            taken: 0,
            first_newline: None,
        }
    }

    /// Forgets the object; the next byte is expected to be a `{`.
    pub(super) fn restart(&mut self) {
        self.open.clear();
        self.state = State::Start;
        self.width = Width::default();
        self.taken = 0;
        self.first_newline = None;
    }

    /// Bytes of this object taken so far.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Where the object's first newline stands, counted from its brace.
    pub(super) fn first_newline(&self) -> Option<usize> {
        self.first_newline
    }

    /// Takes bytes until they end, the object closes, or one cannot be taken.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Progress {
        let begin = self.taken;
        let mut at = 0;
        while at < bytes.len() {
            if let State::String { key } = self.state {
                let plain = bytes[at..].iter().position(|&byte| !is_plain_in_string(byte));
                let Some(plain) = plain else {
                    at = bytes.len();
                    break;
                };
                at += plain;
                self.state = match bytes[at] {
                    b'"' if key => State::Colon,
                    b'"' => State::AfterValue,
                    b'\\' => State::Escape { key },
                    _ => {
                        self.taken = begin + at;
                        return Progress::Broken;
                    }
                };
                at += 1;
                continue;
            }
            let byte = bytes[at];
            if byte == b'\n' && self.first_newline.is_none() {
                self.first_newline = Some(begin + at);
            }
            match self.step(byte) {
                Progress::Open => at += 1,
                Progress::Closed => {
                    self.taken = begin + at + 1;
                    return Progress::Closed;
                }
                refused => {
                    self.taken = begin + at;
                    return refused;
                }
            }
        }
        self.taken = begin + at;
        Progress::Open
    }

    /// Takes one byte outside a string's plain text.
    fn step(&mut self, byte: u8) -> Progress {
        if let State::Escape { key } = self.state {
            if !matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u') {
                return Progress::Broken;
            }
            self.state = State::String { key };
            return Progress::Open;
        }
        if self.state == State::Scalar {
            if is_scalar(byte) {
                return Progress::Open;
            }
            self.state = State::AfterValue;
        }
        if is_whitespace(byte) {
            return Progress::Open;
        }
        self.state = match (self.state, byte) {
            (State::FirstKey | State::Key, b'"') => State::String { key: true },
            (State::Colon, b':') => {
                self.width.keys += 1;
                return self.widen(State::Value);
            }
            (State::FirstElement | State::Value, b'"') => {
                self.width.values += 1;
                return self.widen(State::String { key: false });
            }
            (State::Start | State::FirstElement | State::Value, b'{') => {
                return self.push(Container::Object);
            }
            (State::FirstElement | State::Value, b'[') => return self.push(Container::Array),
            (State::FirstElement | State::Value, _) if is_scalar(byte) => {
                self.width.values += 1;
                return self.widen(State::Scalar);
            }
            (State::AfterValue, b',') => match self.open.last() {
                Some(Container::Object) => State::Key,
                _ => State::Value,
            },
            (State::FirstKey | State::AfterValue, b'}') => return self.pop(Container::Object),
            (State::FirstElement | State::AfterValue, b']') => return self.pop(Container::Array),
            _ => return Progress::Broken,
        };
        Progress::Open
    }

    fn push(&mut self, container: Container) -> Progress {
        if self.open.len() >= self.max_depth {
            return Progress::TooDeep;
        }
        self.width.values += 1;
        self.width.containers += 1;
        let next = match container {
            Container::Object => State::FirstKey,
            Container::Array => State::FirstElement,
        };
        let progress = self.widen(next);
        if progress == Progress::Open {
            self.open.push(container);
        }
        progress
    }

    /// Goes on to `next` unless what was counted last is too much.
    fn widen(&mut self, next: State) -> Progress {
        if !self.width.fits() {
            return Progress::TooWide;
        }
        self.state = next;
        Progress::Open
    }

    fn pop(&mut self, container: Container) -> Progress {
        if self.open.last() != Some(&container) {
            return Progress::Broken;
        }
        self.open.pop();
        self.state = State::AfterValue;
        if self.open.is_empty() { Progress::Closed } else { Progress::Open }
    }
}

/// JSON's four kinds of white space.
pub(super) fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// Neither quote, backslash nor control character, nor the byte that resets
/// the stream, which UTF-8 never holds.
fn is_plain_in_string(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != super::RESET
}
