//! The streaming codec: feed bytes, get objects.

use crate::limits;

/// Why bytes were thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// They were no JSON object.
    Garbage,
    /// The object was longer than the limit.
    TooLong,
    /// The object nested deeper than the limit.
    TooDeep,
}

/// What the decoder found in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole object's bytes, from `{` to its `}`.
    Object(&'a [u8]),
    /// The byte 0xFF, which resets the parser in either direction.
    Sync,
    /// Bytes that belong to no object, counted.
    Discarded(Discard, usize),
}

/// Finds the objects in a stream of bytes from a peer that may be hostile.
#[derive(Debug)]
pub struct Decoder {
    max_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(limits::MAX_OBJECT_BYTES, limits::MAX_DEPTH)
    }
}

impl Decoder {
    /// A decoder with its own limits.
    pub fn new(max_bytes: usize, _max_depth: usize) -> Self {
        Self { max_bytes }
    }

    /// Takes what was read.
    pub fn feed(&mut self, _bytes: &[u8]) {}

    /// The next thing that was found, or `None` until more is fed.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        None
    }

    /// Bytes held at the moment.
    pub fn buffered(&self) -> usize {
        self.max_bytes.min(0)
    }
}
