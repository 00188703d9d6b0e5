//! Writes the messages of a chat.

use serde_json::{Map, Value, json};

use super::messages::{nested, opaque_detail, single_text};
use crate::wire::{as_url, carry_extra, put, refuse_extra, typed, untranslatable};
use crate::{
    Content, Dialect, Error, Extra, Media, MediaSource, Message, Part, Request, Role, ToolCall, ToolResult,
};

const TARGET: Dialect = Dialect::OpenAiChat;

pub(super) fn encode(messages: &[Message], request: &Request) -> Result<Value, Error> {
    let mut written = Vec::with_capacity(messages.len());
    for message in messages {
        encode_message(message, request, &mut written)?;
    }
    Ok(Value::Array(written))
}

/// One message of the tree may be several here: each result of a tool is one of its own.
fn encode_message(message: &Message, request: &Request, written: &mut Vec<Value>) -> Result<(), Error> {
    let mut rest = Vec::new();
    for part in &message.content {
        match &part.content {
            Content::ToolResult(result) => {
                written.push(tool_message(result, part, message, request)?);
            }
            _ => rest.push(part.clone()),
        }
    }
    let only_results = rest.is_empty() && !message.content.is_empty();
    if only_results {
        return Ok(());
    }
    let mut map = Map::new();
    let role = if message.role == Role::Tool { Role::User } else { message.role };
    put(&mut map, "role", Some(role.as_str()));
    let mut reasoning = String::new();
    let mut details = Vec::new();
    let mut calls = Vec::new();
    let mut refusal = None;
    let mut said = Vec::new();
    for part in rest {
        match &part.content {
            Content::Reasoning(thought) => {
                reasoning.push_str(&thought.text);
                details.extend(thought.opaque.as_ref().map(|opaque| opaque_detail(&thought.text, opaque)));
            }
            Content::ToolCall(call) => calls.push(tool_call(call, &part.extra, request)?),
            Content::Refusal(text) if role == Role::Assistant => refusal = Some(text.clone()),
            _ => said.push(part),
        }
    }
    match single_text(&said) {
        Some(text) => put(&mut map, "content", Some(text)),
        None if said.is_empty() => {
            map.insert("content".to_owned(), Value::Null);
        }
        None => {
            let parts = said.iter().map(|part| encode_part(part, request));
            map.insert("content".to_owned(), Value::Array(parts.collect::<Result<_, Error>>()?));
        }
    }
    put(&mut map, "refusal", refusal);
    // Other servers do not know these fields: only who sent them in this dialect gets them back.
    if request.origin == Some(TARGET) && details.is_empty() {
        put(&mut map, "reasoning_content", Some(reasoning).filter(|text| !text.is_empty()));
    }
    put(&mut map, "tool_calls", Some(calls).filter(|calls| !calls.is_empty()));
    put(&mut map, "name", message.name.as_deref());
    carry_extra(&mut map, &message.extra, request, TARGET)?;
    written.push(Value::Object(map));
    Ok(())
}

fn tool_message(
    result: &ToolResult,
    part: &Part,
    message: &Message,
    request: &Request,
) -> Result<Value, Error> {
    let mut map = Map::new();
    put(&mut map, "role", Some("tool"));
    put(&mut map, "tool_call_id", Some(result.call_id.as_str()));
    let content = match single_text(&result.content) {
        Some(text) => Value::from(text),
        None if result.content.is_empty() => Value::from(""),
        None => {
            let parts = result.content.iter().map(|part| encode_part(part, request));
            Value::Array(parts.collect::<Result<_, Error>>()?)
        }
    };
    map.insert("content".to_owned(), content);
    put(&mut map, "name", message.name.as_deref().filter(|_| message.role == Role::Tool));
    if message.role == Role::Tool {
        carry_extra(&mut map, &message.extra, request, TARGET)?;
    }
    carry_extra(&mut map, &part.extra, request, TARGET)?;
    Ok(Value::Object(map))
}

fn tool_call(call: &ToolCall, extra: &Extra, request: &Request) -> Result<Value, Error> {
    let mut map = Map::new();
    put(&mut map, "id", Some(call.id.as_str()));
    put(&mut map, "type", Some("function"));
    map.insert("function".to_owned(), json!({"name": call.name, "arguments": call.arguments}));
    if let Some(opaque) = &call.opaque
        && opaque.dialect == Dialect::Gemini
        && request.origin == Some(TARGET)
    {
        map.insert("extra_content".to_owned(), json!({"google": {"thought_signature": opaque.value}}));
    }
    carry_extra(&mut map, extra, request, TARGET)?;
    Ok(Value::Object(map))
}

fn encode_part(part: &Part, request: &Request) -> Result<Value, Error> {
    let extra = if request.origin == Some(TARGET) {
        part.extra.clone()
    } else {
        refuse_extra(&part.extra, TARGET)?;
        Extra::new()
    };
    let mut map = match &part.content {
        Content::Text(text) => typed("text", "text", text.as_str()),
        Content::Refusal(text) => typed("refusal", "refusal", text.as_str()),
        Content::Image(Media { source, media_type, .. }) => {
            let url = as_url(source, media_type.as_deref()).ok_or_else(|| untranslatable("image", TARGET))?;
            let inner = Map::from_iter([("url".to_owned(), Value::from(url))]);
            return Ok(nested("image_url", inner, &extra));
        }
        Content::Audio(Media { source: MediaSource::Inline(data), media_type, .. }) => {
            let format = media_type.as_deref().and_then(|kind| kind.strip_prefix("audio/")).unwrap_or("wav");
            let format = if format == "mpeg" { "mp3" } else { format };
            let inner = Map::from_iter([
                ("data".to_owned(), Value::from(data.as_str())),
                ("format".to_owned(), Value::from(format)),
            ]);
            return Ok(nested("input_audio", inner, &extra));
        }
        Content::Document(Media { source: MediaSource::Text(text), .. }) => {
            typed("text", "text", text.as_str())
        }
        Content::Document(Media { source, media_type, name }) => {
            let mut inner = Map::new();
            match source {
                MediaSource::FileId(id) => put(&mut inner, "file_id", Some(id.as_str())),
                MediaSource::Inline(_) => put(&mut inner, "file_data", as_url(source, media_type.as_deref())),
                _ => return Err(untranslatable("document", TARGET)),
            }
            put(&mut inner, "filename", name.as_deref());
            return Ok(nested("file", inner, &extra));
        }
        Content::Other(value) if request.origin == Some(TARGET) => return Ok(value.clone()),
        _ => return Err(untranslatable("content", TARGET)),
    };
    crate::wire::put_extra(&mut map, &extra);
    Ok(Value::Object(map))
}
