//! Chat templates: the first half of the input is the template, the rest a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearfield_model::{ChatMessage, ChatOptions, ChatTemplate};

fuzz_target!(|text: &str| {
    let middle = text.ceil_char_boundary(text.len() / 2);
    let (source, content) = text.split_at(middle);
    let Ok(template) = ChatTemplate::without_vocabulary(source, Some("<s>"), None) else { return };
    let messages = [ChatMessage::new("system", "Be brief."), ChatMessage::new("user", content)];
    let _ = template.render(&messages, &ChatOptions::default());
});
