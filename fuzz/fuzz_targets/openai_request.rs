//! Request bodies in OpenAI's dialect.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearfield_api::openai::{Limits, parse_chat_request, parse_completions_request};

fuzz_target!(|body: &[u8]| {
    let _ = parse_chat_request(body, &Limits::default());
    let _ = parse_completions_request(body, &Limits::default());
});
