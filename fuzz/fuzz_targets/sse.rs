//! Server-sent events: cut anywhere, the same bytes give the same events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearfield_api::sse::{Decoder, SseEvent};

fn decode(pieces: &[&[u8]]) -> Option<Vec<SseEvent>> {
    let mut decoder = Decoder::new(1 << 16);
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut events).ok()?;
    }
    events.extend(decoder.finish().ok()?);
    Some(events)
}

fuzz_target!(|bytes: &[u8]| {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    assert_eq!(decode(&[bytes]), decode(&[left, right]));
});
