//! Chat templates against Python's Jinja, from `tests/golden/chat/make_chat_goldens.py`.

use std::path::Path;

use nearfield_model::{ChatMessage, ChatOptions, ChatTemplate, TextError};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Golden {
    name: String,
    template: Option<String>,
    source: Option<String>,
    messages: Vec<Message>,
    options: Map<String, Value>,
    add_generation_prompt: bool,
    text: Option<String>,
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat")
}

fn now() -> jiff::Zoned {
    jiff::civil::datetime(2026, 3, 7, 9, 5, 2, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap()
}

fn render(golden: &Golden) -> Result<String, TextError> {
    let source = match (&golden.template, &golden.source) {
        (Some(file), _) => std::fs::read_to_string(folder().join("templates").join(file)).unwrap(),
        (None, source) => source.clone().unwrap(),
    };
    let messages: Vec<ChatMessage> = golden
        .messages
        .iter()
        .map(|message| ChatMessage::new(message.role.as_str(), message.content.as_str()))
        .collect();
    let options = ChatOptions {
        add_generation_prompt: golden.add_generation_prompt,
        template_options: golden.options.clone(),
        now: Some(now()),
    };
    ChatTemplate::without_vocabulary(&source, Some("<bos>"), Some("<eos>"))?.render(&messages, &options)
}

/// How an answer differs from Python's.
fn difference(golden: &Golden) -> Option<String> {
    let found = render(golden);
    let same = match (&found, &golden.text, &golden.refused) {
        (Ok(found), Some(text), _) => found == text,
        (Err(TextError::Refused { message }), None, Some(refused)) => message == refused,
        (Err(_), None, None) => true,
        _ => false,
    };
    let wanted = golden.text.as_ref().or(golden.refused.as_ref());
    let source = golden.source.as_deref().unwrap_or_default();
    (!same).then(|| format!("{} {source}\n  found:  {found:?}\n  wanted: {wanted:?}", golden.name))
}

#[test]
fn templates_render_as_in_python() {
    let goldens = std::fs::read(folder().join("goldens.json")).unwrap();
    let goldens: Vec<Golden> = serde_json::from_slice(&goldens).unwrap();
    assert!(goldens.len() > 100);
    let differences: Vec<String> = goldens.iter().filter_map(difference).collect();
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
