//! The binary framing of AWS's event streams.
//!
//! A message is its length and the length of its headers (two big-endian u32), a CRC-32 of these eight bytes, the
//! headers, the payload, and a CRC-32 of all before it. A header is the length of its name (one byte), the name, a
//! type and a value; only strings (type 7) matter here.

use crate::sse::SseEvent;

/// Lengths and checksums around a message.
const FRAME: usize = 16;

/// Why a stream cannot be decoded further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventStreamError {
    /// A message is larger than allowed, or smaller than its own frame.
    #[error("a message of the stream has a length of {length} bytes")]
    Length {
        /// The length that it states.
        length: usize,
    },
    /// A checksum does not fit: bytes were changed or lost on the way.
    #[error("a message of the stream does not fit its checksum")]
    Checksum,
    /// The headers or the payload make no sense.
    #[error("a message of the stream cannot be read")]
    Malformed,
}

/// Turns the bytes of a stream into messages. After an error it must not be used again.
#[derive(Debug)]
pub struct EventStreamDecoder {
    limit: usize,
    buffer: Vec<u8>,
}

impl EventStreamDecoder {
    /// A decoder for one stream, whose messages may have up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: Vec::new() }
    }

    /// Takes the next bytes and appends the messages that they complete: an event under its type, an exception or
    /// error as `exception/TYPE`.
    ///
    /// # Errors
    /// [`EventStreamError`] when the bytes are no such stream.
    pub fn push(&mut self, bytes: &[u8], messages: &mut Vec<SseEvent>) -> Result<(), EventStreamError> {
        self.buffer.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(message) = self.message(at)? {
            messages.push(read(message)?);
            at += message.len();
        }
        self.buffer.drain(..at);
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`EventStreamError::Malformed`] when a message was cut.
    pub fn finish(self) -> Result<(), EventStreamError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(EventStreamError::Malformed) }
    }

    /// The whole message that begins at `at`, its checksums checked.
    fn message(&self, at: usize) -> Result<Option<&[u8]>, EventStreamError> {
        let rest = self.buffer.get(at..).unwrap_or_default();
        let (Some(length), Some(prelude)) = (number(rest, 0), rest.get(..8)) else { return Ok(None) };
        let Some(checksum) = number(rest, 8) else { return Ok(None) };
        if crc32fast::hash(prelude) != checksum {
            return Err(EventStreamError::Checksum);
        }
        let length = length as usize;
        if length < FRAME || length > self.limit {
            return Err(EventStreamError::Length { length });
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let (body, _) = message.split_at(length - 4);
        if number(message, length - 4) != Some(crc32fast::hash(body)) {
            return Err(EventStreamError::Checksum);
        }
        Ok(Some(message))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

fn read(message: &[u8]) -> Result<SseEvent, EventStreamError> {
    let malformed = EventStreamError::Malformed;
    let headers_length = number(message, 4).ok_or(malformed)? as usize;
    let end = message.len() - 4;
    let payload_at = headers_length.checked_add(12).filter(|at| *at <= end).ok_or(malformed)?;
    let headers = message.get(12..payload_at).ok_or(malformed)?;
    let payload = message.get(payload_at..end).ok_or(malformed)?;
    let (mut kind, mut event, mut exception) = (None, None, None);
    let mut rest = headers;
    while !rest.is_empty() {
        let (name, value, after) = header(rest).ok_or(malformed)?;
        match (name, value) {
            (b":message-type", Some(value)) => kind = Some(value),
            (b":event-type", Some(value)) => event = Some(value),
            (b":exception-type" | b":error-code", Some(value)) => exception = Some(value),
            _ => {}
        }
        rest = after;
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed);
    let name = match kind {
        Some(b"exception" | b"error") => format!("exception/{}", text(exception.unwrap_or(b"unknown"))?),
        _ => text(event.unwrap_or_default())?,
    };
    Ok(SseEvent { event: Some(name), data: text(payload)? })
}

/// A header's name, its value when that is a string, and the bytes behind it.
type Header<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

/// The first header: its name, its value when that is a string, and what comes after it.
fn header(bytes: &[u8]) -> Option<Header<'_>> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(*length as usize)?;
    let (kind, rest) = rest.split_first()?;
    let fixed = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        6 | 7 => {
            let (length, rest) = rest.split_at_checked(2)?;
            let length = u16::from_be_bytes(length.try_into().ok()?) as usize;
            let (value, rest) = rest.split_at_checked(length)?;
            return Some((name, (*kind == 7).then_some(value), rest));
        }
        _ => return None,
    };
    let (_, rest) = rest.split_at_checked(fixed)?;
    Some((name, None, rest))
}

/// Appends one message with string headers. Names of up to 255 bytes and values of up to 65535 are written whole.
pub fn write_message(out: &mut Vec<u8>, headers: &[(&str, &str)], payload: &[u8]) {
    let mut block = Vec::new();
    for (name, value) in headers {
        let name = name.as_bytes().get(..name.len().min(255)).unwrap_or_default();
        let value = value.as_bytes().get(..value.len().min(65_535)).unwrap_or_default();
        block.push(name.len() as u8);
        block.extend_from_slice(name);
        block.push(7);
        block.extend_from_slice(&(value.len() as u16).to_be_bytes());
        block.extend_from_slice(value);
    }
    let mut message = Vec::with_capacity(FRAME + block.len() + payload.len());
    message.extend_from_slice(&((FRAME + block.len() + payload.len()) as u32).to_be_bytes());
    message.extend_from_slice(&(block.len() as u32).to_be_bytes());
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&block);
    message.extend_from_slice(payload);
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    out.append(&mut message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8], size: usize) -> Result<Vec<SseEvent>, EventStreamError> {
        let mut decoder = EventStreamDecoder::new(1 << 16);
        let mut messages = Vec::new();
        for piece in bytes.chunks(size.max(1)) {
            decoder.push(piece, &mut messages)?;
        }
        decoder.finish()?;
        Ok(messages)
    }

    fn message(event: &str, payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write_message(&mut out, &[(":event-type", event), (":message-type", "event")], payload.as_bytes());
        out
    }

    /// A message without headers and payload, worked out by hand: lengths 16 and 0.
    #[test]
    fn the_smallest_message() {
        let mut out = Vec::new();
        write_message(&mut out, &[], b"");
        assert_eq!(out, [0, 0, 0, 16, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff]);
    }

    #[test]
    fn exceptions_are_told_apart() {
        let mut out = Vec::new();
        let headers = [(":exception-type", "throttlingException"), (":message-type", "exception")];
        write_message(&mut out, &headers, b"{}");
        assert_eq!(decode(&out, 1).unwrap()[0].event.as_deref(), Some("exception/throttlingException"));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = message("messageStart", "{\"role\":\"assistant\"}");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert!(decode(&changed, 7).is_err(), "{at}");
        }
        for length in 1..bytes.len() {
            assert!(decode(&bytes[..length], 7).is_err(), "{length}");
        }
    }

    #[test]
    fn large_messages_are_refused_before_they_are_read() {
        let bytes = message("x", &"y".repeat(1 << 16));
        assert!(matches!(decode(&bytes[..12], 12), Err(EventStreamError::Length { .. })));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in proptest::collection::vec(("[a-z]{0,9}", ".{0,40}"), 0..5), size in 1..50_usize) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(event, payload)| message(event, payload)).collect();
            let read = decode(&bytes, size).unwrap();
            let expected: Vec<_> = parts.into_iter()
                .map(|(event, data)| SseEvent { event: Some(event), data }).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 5);
        }
    }
}
