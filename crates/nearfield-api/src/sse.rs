//! Server-sent events: framing text into events and back.
//!
//! The decoder takes bytes as they arrive, cut anywhere, and follows the event stream format of the HTML standard in
//! all but two points: text that is not UTF-8 is an error instead of replacement characters, and an event that the
//! stream's end cuts short can be had from [`Decoder::finish`] instead of being lost.

/// One event: what stood between two blank lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The event's name, when it has one.
    pub event: Option<String>,
    /// The data lines, joined by `\n`.
    pub data: String,
}

/// Why a stream cannot be decoded further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// One event is larger than allowed.
    #[error("an event of the stream is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A line is not UTF-8.
    #[error("the stream is not UTF-8")]
    NotUtf8,
}

/// Turns the bytes of a stream into events. After an error it must not be used again.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// Bytes of the lines of the current event, comments included.
    event_bytes: usize,
    event: Option<String>,
    data: Option<String>,
    /// The last byte was CR: a LF that follows belongs to the same line end.
    after_carriage_return: bool,
    /// No line has ended yet: a byte order mark may stand here.
    first_line: bool,
}

impl Decoder {
    /// A decoder for one stream. An event whose lines together pass `limit` bytes is an error.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            event_bytes: 0,
            event: None,
            data: None,
            after_carriage_return: false,
            first_line: true,
        }
    }

    /// Takes the next bytes and appends the events that they complete to `events`.
    ///
    /// # Errors
    /// [`SseError`] when the stream passes the limit or is not UTF-8.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        if self.after_carriage_return && !bytes.is_empty() {
            self.after_carriage_return = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = bytes.split_at(end);
            self.count(line)?;
            if self.line.is_empty() {
                self.end_line(line, events)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.end_line(&whole, events)?;
            }
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_carriage_return = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        self.count(bytes)?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Ends the stream: an event that no blank line ended is returned.
    ///
    /// # Errors
    /// As [`Decoder::push`].
    pub fn finish(mut self) -> Result<Option<SseEvent>, SseError> {
        let mut events = Vec::new();
        let line = std::mem::take(&mut self.line);
        self.end_line(&line, &mut events)?;
        self.dispatch(&mut events);
        Ok(events.pop())
    }

    fn count(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        self.event_bytes = self.event_bytes.saturating_add(bytes.len());
        if self.event_bytes > self.limit {
            return Err(SseError::TooLarge { limit: self.limit });
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let mut line = std::str::from_utf8(line).map_err(|_| SseError::NotUtf8)?;
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => self.event = Some(value.to_owned()),
            // Comments (no field name), `id`, `retry` and unknown fields carry nothing for us.
            _ => {}
        }
        Ok(())
    }

    /// Ends the event. Without data there is none, as the format says.
    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        self.event_bytes = 0;
        let event = self.event.take().filter(|name| !name.is_empty());
        if let Some(data) = self.data.take() {
            events.push(SseEvent { event, data });
        }
    }
}

/// Appends one event. Line breaks inside `data` (LF, CR or both) become separate data lines; a name ends at its first
/// line break, since the format has no way to write one.
pub fn write_event(out: &mut Vec<u8>, event: Option<&str>, data: &str) {
    if let Some(name) = event.and_then(|name| name.split(['\r', '\n']).next()) {
        write_line(out, "event", name);
    }
    let mut rest = data;
    loop {
        let end = rest.find(['\r', '\n']);
        let (line, after) = match end {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        write_line(out, "data", line);
        if end.is_none() {
            break;
        }
        rest = after.strip_prefix("\r\n").unwrap_or_else(|| after.get(1..).unwrap_or(""));
    }
    out.push(b'\n');
}

/// Appends a comment, which readers skip: it keeps a quiet connection alive.
pub fn write_comment(out: &mut Vec<u8>, text: &str) {
    for line in text.split(['\r', '\n']) {
        write_line(out, "", line);
    }
    out.push(b'\n');
}

fn write_line(out: &mut Vec<u8>, field: &str, value: &str) {
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<SseEvent>, SseError> {
        let mut decoder = Decoder::new(256);
        let mut events = Vec::new();
        for piece in pieces {
            decoder.push(piece, &mut events)?;
        }
        events.extend(decoder.finish()?);
        Ok(events)
    }

    fn data(text: &str) -> Vec<String> {
        decode_pieces([text.as_bytes()]).unwrap().into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn every_line_end_separates() {
        assert_eq!(data("data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\n\r\n"), ["a", "b", "c", "d"]);
    }

    #[test]
    fn lines_of_data_are_joined() {
        assert_eq!(data("data: a\ndata\ndata:  b\n\n"), ["a\n\n b"]);
        assert_eq!(data("data:x\n\n"), ["x"]);
    }

    #[test]
    fn comments_names_marks_and_unknown_fields() {
        let text = "\u{feff}: hello\n\nid: 1\nretry: 5\nevent: error\ndata: {}\nfoo: bar\n\nevent: lonely\n\n: end\n";
        let events = decode_pieces([text.as_bytes()]).unwrap();
        assert_eq!(events, [SseEvent { event: Some("error".into()), data: "{}".into() }]);
    }

    #[test]
    fn a_mark_counts_only_at_the_start() {
        assert_eq!(data("data: a\n\n\u{feff}data: b\n\n"), ["a"]);
    }

    #[test]
    fn the_end_completes_the_last_event() {
        assert_eq!(data("data: a\n\ndata: [DONE]"), ["a", "[DONE]"]);
        assert_eq!(data("data: a\r"), ["a"]);
        assert!(data("").is_empty());
    }

    #[test]
    fn a_large_event_is_an_error_however_it_is_made() {
        let long = "x".repeat(300);
        for text in [format!("data: {long}"), format!(": {long}\n"), "data: x\n".repeat(40)] {
            let pieces = text.as_bytes().chunks(7);
            assert_eq!(decode_pieces(pieces), Err(SseError::TooLarge { limit: 256 }));
        }
        assert_eq!(data(&"data: x\n\n".repeat(100)).len(), 100);
    }

    #[test]
    fn broken_text_is_an_error() {
        assert_eq!(decode_pieces([&b"data: \xff\n\n"[..]]), Err(SseError::NotUtf8));
        assert_eq!(decode_pieces([&b"data: \xc3"[..]]), Err(SseError::NotUtf8));
    }

    #[test]
    fn comments_cannot_smuggle_events() {
        let mut out = Vec::new();
        write_comment(&mut out, "a\n\ndata: b");
        write_event(&mut out, Some("x\ndata: c"), "d");
        let events = decode_pieces([&out[..]]).unwrap();
        assert_eq!(events, [SseEvent { event: Some("x".into()), data: "d".into() }]);
    }

    /// Text as it may come: pieces of the format in any order.
    fn stream_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just("\r\n".to_owned()),
            Just("\u{feff}".to_owned()),
            Just("data: ".to_owned()),
            Just("event:".to_owned()),
            Just(": ".to_owned()),
            Just("[DONE]".to_owned()),
            "[a-zé😀: ]{0,4}",
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(text in stream_text(), cuts in proptest::collection::vec(1..6_usize, 0..64)) {
            let whole = decode_pieces([text.as_bytes()]).unwrap();
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(decode_pieces(pieces).unwrap(), whole.clone());
            prop_assert_eq!(decode_pieces(text.as_bytes().chunks(1)).unwrap(), whole);
        }

        #[test]
        fn what_is_written_is_read(data in "[^\r]{0,40}", name in proptest::option::of("[a-z]{1,8}")) {
            let mut out = Vec::new();
            write_comment(&mut out, "quiet");
            write_event(&mut out, name.as_deref(), &data);
            prop_assert_eq!(decode_pieces([&out[..]]).unwrap(), vec![SseEvent { event: name, data }]);
        }

        #[test]
        fn carriage_returns_become_line_feeds(data in "[a\r\n]{0,12}") {
            let mut out = Vec::new();
            write_event(&mut out, None, &data);
            let expected = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(decode_pieces([&out[..]]).unwrap().remove(0).data, expected);
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_pieces(bytes.chunks(3));
        }
    }
}
