//! The streaming codec: feed bytes, get objects; and the messages in them.
//!
//! # Finding the objects
//!
//! An object ends where its brace closes. Between objects white space is
//! skipped, `{` begins an object, and any other byte is garbage up to and
//! including the next newline: a `{` within a line of garbage may be anywhere
//! in a cut string, so it is not trusted.
//!
//! # Resynchronisation
//!
//! When an object breaks, whatever followed its beginning may have been whole
//! objects all the same. The decoder goes back to the byte after the first
//! newline within the broken object and looks again from there; without a
//! newline it goes on at the impossible byte when that is a `{`, else after the
//! next newline. So garbage costs only the objects that share a line with it,
//! or that it encloses: after `{"a":[`, a newline and one object, only what
//! follows can show that the object stood for itself. It comes out then.
//!
//! # Cost
//!
//! A byte is looked at again only by an object that began on a later line
//! inside the broken one and was still open at that byte. Those nest, so there
//! are at most `max_depth` of them: the work is linear in what was fed, with a
//! factor of `max_depth` + 1 for the worst input and 1 for well-formed input.
//!
//! # Memory
//!
//! Between feeds the decoder holds less than `max_bytes`, and only while an
//! object is open. Callers feed at most [`MAX_FEED_BYTES`] at a time and take
//! all frames before they feed again.

mod encode;
mod parse;
mod structure;
#[cfg(test)]
mod tests;

pub use encode::{encode_event, encode_reply, encode_request};
pub use parse::{MalformedMessage, parse_guest_message, parse_request};

use structure::{Progress, Structure, is_whitespace};

use crate::limits;

/// The byte that resets the parser in either direction. UTF-8 never holds it.
/// A side that opens the channel sends it before its hello, so that whatever
/// was cut before cannot swallow the hello.
pub const RESET: u8 = 0xFF;

/// How much a caller feeds at most before it takes the frames, in bytes.
pub const MAX_FEED_BYTES: usize = 64 * 1024;

/// How much memory a decoder keeps while nothing is open, in bytes. A host
/// holds thousands of them, nearly all idle at any moment.
const RETAINED_BYTES: usize = 4 * 1024;

/// The shortest object: `{}`. A smaller limit could let nothing through.
const MIN_OBJECT_BYTES: usize = 2;

/// Why bytes were thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// They were no JSON object.
    Garbage,
    /// The object was longer than the limit.
    TooLong,
    /// The object nested deeper than the limit.
    TooDeep,
    /// The object held more keys, values or containers than the limits.
    TooWide,
}

/// What the decoder found in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole object's bytes, from `{` to its `}`. Its structure is sound;
    /// its strings and scalars have not been looked at.
    Object(&'a [u8]),
    /// The byte 0xFF, which resets the parser in either direction.
    Sync,
    /// Bytes that belong to no object, counted: told once for each line of
    /// garbage (or limit's length of it), and once for each object that was
    /// too long, too deep or too wide. What follows an object that was too long on its
    /// own line is garbage.
    Discarded(Discard, usize),
}

/// A [`Frame`] before its bytes are borrowed.
enum Found {
    Object { begin: usize, end: usize },
    Sync,
    Discarded(Discard, usize),
}

#[derive(Clone, Copy, Debug)]
enum Scan {
    /// Between objects.
    Between,
    /// In the object that begins at `start`.
    Object,
    /// In a line that is thrown away, of which `dropped` bytes are gone.
    Line { reason: Discard, dropped: usize },
}

/// Finds the objects in a stream of bytes from a peer that may be hostile.
#[derive(Debug)]
pub struct Decoder {
    max_bytes: usize,
    buffer: Vec<u8>,
    /// What stands before this was dealt with.
    start: usize,
    scan: Scan,
    structure: Structure,
    /// Bytes looked at since [`Decoder::take_work`], again and again.
    work: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(limits::MAX_OBJECT_BYTES, limits::MAX_DEPTH)
    }
}

impl Decoder {
    /// A decoder with its own limits: an object's bytes (at least 2), and how
    /// deeply it nests, itself included.
    pub fn new(max_bytes: usize, max_depth: usize) -> Self {
        Self {
            max_bytes: max_bytes.max(MIN_OBJECT_BYTES),
            buffer: Vec::new(),
            start: 0,
            scan: Scan::Between,
            structure: Structure::new(max_depth),
            work: 0,
        }
    }

    /// Takes what was read, at most [`MAX_FEED_BYTES`] for the promised bound
    /// on memory.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        let needed = self.buffer.len() + bytes.len();
        if needed <= RETAINED_BYTES {
            self.buffer.shrink_to(RETAINED_BYTES);
        }
        if needed > self.buffer.capacity() {
            // Doubling keeps many small feeds linear; the cap keeps it from
            // reserving twice the limit.
            let wanted = needed.max((self.buffer.capacity() * 2).min(self.max_bytes));
            self.buffer.reserve_exact(wanted - self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that was found, or `None` until more is fed.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        let Some(found) = self.find() else {
            self.release();
            return None;
        };
        Some(match found {
            Found::Object { begin, end } => Frame::Object(&self.buffer[begin..end]),
            Found::Sync => Frame::Sync,
            Found::Discarded(reason, bytes) => Frame::Discarded(reason, bytes),
        })
    }

    /// How many bytes were looked at since this was last asked, the same byte
    /// again included: what the stream cost beside its length.
    pub fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    /// Bytes held at the moment.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn find(&mut self) -> Option<Found> {
        loop {
            let found = match self.scan {
                Scan::Between => {
                    let white = self.buffer[self.start..]
                        .iter()
                        .take_while(|&&byte| is_whitespace(byte))
                        .count();
                    self.start += white;
                    self.work += white + 1;
                    self.begin(*self.buffer.get(self.start)?)
                }
                Scan::Object => {
                    let from = self.start + self.structure.taken();
                    let to = self.buffer.len().min(self.start + self.max_bytes);
                    let progress = self.structure.run(&self.buffer[from..to]);
                    let taken = self.structure.taken();
                    self.work += self.start + taken - from + 1;
                    match progress {
                        Progress::Open if taken < self.max_bytes => return None,
                        Progress::Open => self.give_up(Discard::TooLong),
                        Progress::Closed => Some(self.close()),
                        Progress::Broken => self.give_up(Discard::Garbage),
                        Progress::TooDeep => self.give_up(Discard::TooDeep),
                        Progress::TooWide => self.give_up(Discard::TooWide),
                    }
                }
                Scan::Line { reason, dropped } => {
                    if self.start == self.buffer.len() && dropped < self.max_bytes {
                        return None;
                    }
                    self.skip_line(reason, dropped)
                }
            };
            if found.is_some() {
                return found;
            }
        }
    }

    /// Looks at the first byte after an object's end.
    fn begin(&mut self, byte: u8) -> Option<Found> {
        match byte {
            RESET => {
                self.start += 1;
                return Some(Found::Sync);
            }
            b'{' => {
                self.structure.restart();
                self.scan = Scan::Object;
            }
            _ => self.scan = Scan::Line { reason: Discard::Garbage, dropped: 0 },
        }
        None
    }

    fn close(&mut self) -> Found {
        let begin = self.start;
        self.start += self.structure.taken();
        self.scan = Scan::Between;
        Found::Object { begin, end: self.start }
    }

    /// Gives up the open object and decides where to look again.
    fn give_up(&mut self, reason: Discard) -> Option<Found> {
        let taken = self.structure.taken();
        let impossible = match reason {
            Discard::Garbage => self.buffer.get(self.start + taken).copied(),
            // The byte that was too much begins a part of this very object, so
            // it is not looked at as the beginning of another.
            Discard::TooLong | Discard::TooDeep | Discard::TooWide => None,
        };
        let dropped = match (impossible, self.structure.first_newline()) {
            (Some(RESET), _) | (Some(b'{'), None) => taken,
            (_, Some(newline)) => newline + 1,
            (_, None) => {
                self.start += taken;
                self.scan = Scan::Line { reason, dropped: taken };
                return None;
            }
        };
        self.start += dropped;
        self.scan = Scan::Between;
        Some(Found::Discarded(reason, dropped))
    }

    /// Throws away the rest of a line, or as much as makes up the limit.
    fn skip_line(&mut self, reason: Discard, dropped: usize) -> Option<Found> {
        let to = self.buffer.len().min(self.start + (self.max_bytes - dropped));
        let rest = &self.buffer[self.start..to];
        let end = rest.iter().position(|&byte| byte == b'\n' || byte == RESET);
        let (skipped, ended) = match end {
            Some(at) if rest[at] == b'\n' => (at + 1, true),
            Some(at) => (at, true),
            None => (rest.len(), false),
        };
        self.start += skipped;
        self.work += skipped + 1;
        let dropped = dropped + skipped;
        if ended {
            self.scan = Scan::Between;
            return (dropped > 0).then_some(Found::Discarded(reason, dropped));
        }
        if dropped < self.max_bytes {
            self.scan = Scan::Line { reason, dropped };
            return None;
        }
        // What is refused is told once; the rest of its line is only garbage.
        self.scan = Scan::Line { reason: Discard::Garbage, dropped: 0 };
        Some(Found::Discarded(reason, dropped))
    }

    /// Gives memory back once nothing is held.
    fn release(&mut self) {
        if self.start < self.buffer.len() {
            return;
        }
        self.buffer.clear();
        self.buffer.shrink_to(RETAINED_BYTES);
        self.start = 0;
    }
}
