//! Server-sent events as the HTML standard writes them, parsed from any cut of
//! the stream and with a bound on memory. No I/O.

use std::collections::VecDeque;

/// The longest event that is accepted. The daemon's longest carries one guest's
/// facts, which the channel bounds at 1 MiB; JSON in JSON does not grow it.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// One event of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The last `id:` up to and including this event.
    pub(super) id: Option<String>,
    /// `event:`, or `message`.
    pub(super) kind: String,
    /// The lines of `data:`, joined by line feeds.
    pub(super) data: String,
}

/// An event was longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
pub(super) struct TooLong;

/// Feed bytes, take events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed belongs to it.
    after_return: bool,
    /// The first line was seen, which may begin with a byte order mark.
    begun: bool,
    kind: String,
    /// Each line of `data:` with a line feed after it.
    data: String,
    id: Option<String>,
    /// `id` as of the last empty line, whether or not an event ended there.
    place: Option<String>,
    ready: VecDeque<Message>,
}

impl Parser {
    /// Takes what was read. After an error the stream must be given up.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        for &byte in bytes {
            let second_of_pair = std::mem::take(&mut self.after_return) && byte == b'\n';
            if second_of_pair {
                continue;
            }
            match byte {
                b'\r' | b'\n' => {
                    self.after_return = byte == b'\r';
                    self.end_line();
                }
                _ if self.line.len() + self.data.len() >= MAX_EVENT_BYTES => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The next whole event.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        self.ready.pop_front()
    }

    /// Where the stream is, which it also says without an event. Events that
    /// were not taken yet lie before it.
    pub(super) fn place(&self) -> Option<&String> {
        self.place.as_ref()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&line).into_owned();
        if !std::mem::replace(&mut self.begun, true)
            && let Some(rest) = line.strip_prefix('\u{feff}')
        {
            line = rest.to_owned();
        }
        if line.is_empty() {
            self.end_event();
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments keep the connection alive; unknown fields are ignored.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let kind = std::mem::take(&mut self.kind);
        let mut data = std::mem::take(&mut self.data);
        self.place.clone_from(&self.id);
        if data.pop().is_none() {
            return;
        }
        let kind = if kind.is_empty() { "message".to_owned() } else { kind };
        self.ready.push_back(Message { id: self.id.clone(), kind, data });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_told_without_an_event() {
        let mut parser = Parser::default();
        parser.feed(b"id: a-1\n").unwrap();
        assert_eq!(parser.place(), None, "it holds from the empty line on");
        parser.feed(b"\n").unwrap();
        assert_eq!(parser.place().map(String::as_str), Some("a-1"));
        assert_eq!(parser.next_message(), None);
    }

    fn parse(pieces: &[&[u8]]) -> Vec<Message> {
        let mut parser = Parser::default();
        let mut messages = Vec::new();
        for piece in pieces {
            parser.feed(piece).unwrap();
            while let Some(message) = parser.next_message() {
                messages.push(message);
            }
        }
        messages
    }

    fn message(id: Option<&str>, kind: &str, data: &str) -> Message {
        Message { id: id.map(str::to_owned), kind: kind.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn reads_an_event_with_all_its_fields() {
        let stream = b"id: 1f-7\nevent: state\ndata: {\"a\":1}\n\n";
        assert_eq!(parse(&[stream]), [message(Some("1f-7"), "state", "{\"a\":1}")]);
    }

    #[test]
    fn joins_data_lines_keeps_the_id_and_skips_comments() {
        let stream = b"\xef\xbb\xbfid:4\r\ndata: a\r\n: alive\r\ndata:b\r\n\r\ndata\r\rdata: c\n\n";
        let texts = ["a\nb", "", "c"];
        assert_eq!(parse(&[stream]), texts.map(|text| message(Some("4"), "message", text)));
    }

    #[test]
    fn an_unfinished_event_is_not_told() {
        assert_eq!(parse(&[b"data: half\n"]), []);
    }

    #[test]
    fn refuses_an_event_without_end() {
        let mut parser = Parser::default();
        let piece = [b'x'; 64 * 1024];
        let outcome = (0..=MAX_EVENT_BYTES / piece.len()).try_for_each(|_| parser.feed(&piece));
        assert_eq!(outcome, Err(TooLong));
    }

    #[test]
    fn refuses_endless_data_in_short_lines() {
        let mut parser = Parser::default();
        let piece = b"data:\n".repeat(64 * 1024);
        let outcome = (0..=MAX_EVENT_BYTES / (64 * 1024)).try_for_each(|_| parser.feed(&piece));
        assert_eq!(outcome, Err(TooLong));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            "(id|event|data|retry|x)?(: ?[a-zé{}\\n\\r]{0,6})?".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..8),
            Just(Vec::new()),
        ];
        let ending = prop_oneof![Just("\n"), Just("\r"), Just("\r\n")];
        proptest::collection::vec((line, ending), 0..40).prop_map(|lines| {
            lines.into_iter().flat_map(|(line, end)| [line, end.into()].concat()).collect()
        })
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_events(
            stream in stream(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &stream[w[0]..w[1]]).collect();
            prop_assert_eq!(parse(&pieces), parse(&[&stream]));
        }
    }
}
