//! Bytes that wait to be written. Bounded by its users: they add nothing but
//! one reply beyond [`Outbox::is_full`], and events only while it is empty.

/// From here on no request is taken any more, in bytes: a host that asks and
/// does not read gets no memory of the guest.
const FULL_BYTES: usize = 64 * 1024;

/// What is kept while nothing waits, in bytes: a reply, or a usual report.
const RETAINED_BYTES: usize = 4 * 1024;

/// The bytes, and how many of them are written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Where messages are encoded to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is to be written next.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// So many bytes were written.
    pub(super) fn advance(&mut self, written: usize) {
        self.written += written;
        if self.written == self.bytes.len() {
            self.clear();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(RETAINED_BYTES);
        self.written = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether requests have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.pending().len() >= FULL_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_gives_its_memory_back() {
        let mut outbox = Outbox::default();
        outbox.buffer().resize(1 << 20, b'x');
        assert!(outbox.is_full());
        outbox.advance((1 << 20) - 1);
        assert_eq!(outbox.pending(), b"x");
        outbox.advance(1);
        assert!(outbox.is_empty() && outbox.bytes.capacity() <= RETAINED_BYTES);
    }
}
