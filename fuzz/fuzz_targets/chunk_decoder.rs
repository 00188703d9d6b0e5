//! What a cloud streams, one chunk a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearfield_api::Dialect;
use nearfield_api::openai::{Limits, parse_chat_request};
use nearfield_api::sse::SseEvent;

const REQUEST: &[u8] =
    br#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true, "n": 2}"#;

fuzz_target!(|text: &str| {
    let (request, _) = parse_chat_request(REQUEST, &Limits::default()).expect("a good request");
    let mut decoder = Dialect::OpenAiChat.decoder(&request, "m");
    let mut events = Vec::new();
    for line in text.lines() {
        let frame = SseEvent { data: line.to_owned(), ..SseEvent::default() };
        if decoder.push(&frame, &mut events).is_err() {
            return;
        }
    }
    let _ = decoder.finish(&mut events);
});
