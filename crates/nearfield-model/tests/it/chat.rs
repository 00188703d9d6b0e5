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
        tools: Vec::new(),
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

#[derive(Deserialize)]
struct Transcript {
    family: String,
    name: String,
    messages: Vec<Map<String, Value>>,
    tools: Vec<Value>,
    options: Map<String, Value>,
    add_generation_prompt: bool,
    text: String,
}

/// The transcripts of a family whose rendering differs from that of transformers.
fn differing(family: &str, template: &Path) -> Vec<String> {
    let source = std::fs::read_to_string(template).unwrap();
    let template = ChatTemplate::without_vocabulary(&source, Some("<bos>"), Some("<eos>")).unwrap();
    let transcripts = std::fs::read(folder().join("transcripts.json")).unwrap();
    let transcripts: Vec<Transcript> = serde_json::from_slice(&transcripts).unwrap();
    let transcripts: Vec<_> =
        transcripts.into_iter().filter(|transcript| transcript.family == family).collect();
    assert_eq!(transcripts.len(), 40);
    let differs = |transcript: &Transcript| {
        let message = |message: &Map<String, Value>| {
            let mut fields = message.clone();
            let mut take = |name| match fields.remove(name) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            let (role, content, name) = (take("role").unwrap(), take("content").unwrap(), take("name"));
            ChatMessage { role, content, name, fields }
        };
        let messages: Vec<ChatMessage> = transcript.messages.iter().map(message).collect();
        let options = ChatOptions {
            add_generation_prompt: transcript.add_generation_prompt,
            tools: transcript.tools.clone(),
            template_options: transcript.options.clone(),
            now: Some(now()),
        };
        let found = template.render(&messages, &options).map_err(|error| error.to_string());
        (found.as_deref() != Ok(transcript.text.as_str()))
            .then(|| format!("{}\n  found:  {found:?}\n  wanted: {:?}", transcript.name, transcript.text))
    };
    transcripts.iter().filter_map(differs).collect()
}

fn same_as_transformers(family: &str, template: &str) {
    let differing = differing(family, &Path::new(env!("CARGO_MANIFEST_DIR")).join(template));
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn transcripts_of_smollm2_by_its_embedded_template() {
    same_as_transformers("smollm2", "tests/golden/chat/templates/smollm2.jinja");
}

#[test]
fn transcripts_of_qwen2_5_coder_by_its_embedded_template() {
    same_as_transformers("qwen2.5-coder", "tests/golden/chat/templates/qwen2.5-coder.jinja");
}

#[test]
fn transcripts_of_qwen3_6_by_a_template_written_from_its_outline() {
    same_as_transformers("qwen3.6", "src/chat/families/qwen3.6.jinja");
}

#[test]
fn transcripts_of_gemma4_by_a_template_written_from_its_outline() {
    same_as_transformers("gemma4", "src/chat/families/gemma4.jinja");
}
