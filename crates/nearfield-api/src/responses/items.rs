//! Items of the input: read and written.

use serde_json::{Map, Value, json};

use super::{INSTRUCTIONS, content};
use crate::fields::{Fields, invalid_value, wrong_type};
use crate::wire::{carry_extra, put, typed, untranslatable};
use crate::{Content, Dialect, Error, Message, Opaque, Part, Reasoning, Request, Role, ToolCall, ToolResult};

const TARGET: Dialect = Dialect::OpenAiResponses;
/// The kind of the one value of this dialect that must come back.
pub(super) const ENCRYPTED: &str = "encrypted_content";

/// The input: a string, which the user says, or an array of items.
pub(super) fn decode(value: Value) -> Result<Vec<Message>, Error> {
    match value {
        Value::String(text) => Ok(vec![Message::new(Role::User, text)]),
        Value::Array(items) => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| decode_item(Fields::of(item, &format!("input[{i}]"))?))
            .collect(),
        other => Err(wrong_type("input", "a string or an array of items", &other)),
    }
}

fn decode_item(mut fields: Fields) -> Result<Message, Error> {
    match fields.peek("type") {
        None | Some("message") if fields.has("role") => message(fields),
        Some("function_call") => {
            fields.take("type");
            let call = ToolCall {
                id: fields.required_string("call_id")?,
                name: fields.required_string("name")?,
                arguments: fields.string("arguments")?.unwrap_or_default(),
                opaque: None,
            };
            let part = Part { content: Content::ToolCall(call), extra: fields.rest() };
            Ok(Message::of(Role::Assistant, vec![part]))
        }
        Some("function_call_output") => {
            fields.take("type");
            let path = fields.path_of("output");
            let result = ToolResult {
                call_id: fields.required_string("call_id")?,
                name: None,
                content: content::decode(fields.required("output")?, &path)?,
                is_error: None,
            };
            let part = Part { content: Content::ToolResult(result), extra: fields.rest() };
            Ok(Message::of(Role::Tool, vec![part]))
        }
        Some("reasoning") => {
            fields.take("type");
            let id = fields.string("id")?;
            let opaque = fields.string(ENCRYPTED)?;
            let text = summary_text(fields.get("summary"), fields.get("content"));
            let extra_id = id.clone().filter(|_| opaque.is_none());
            let opaque =
                opaque.map(|value| Opaque { dialect: TARGET, kind: ENCRYPTED.to_owned(), value, id });
            let mut extra = fields.rest();
            put(&mut extra, "id", extra_id);
            let part = Part { content: Content::Reasoning(Reasoning { text, opaque }), extra };
            Ok(Message::of(Role::Assistant, vec![part]))
        }
        _ => Ok(Message::of(Role::Assistant, vec![Content::Other(fields.into_value()).into()])),
    }
}

fn message(mut fields: Fields) -> Result<Message, Error> {
    let path = fields.path_of("role");
    let role = match fields.required_string("role")?.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        "developer" => Role::Developer,
        _ => return Err(invalid_value(&path, "must be user, assistant, system or developer")),
    };
    let path = fields.path_of("content");
    let content = content::decode(fields.required("content")?, &path)?;
    Ok(Message { role, content, name: None, extra: fields.rest() })
}

/// The text of a summary, or of the reasoning itself where a server shows it.
pub(super) fn summary_text(summary: Option<&Value>, content: Option<&Value>) -> String {
    let texts = |list: Option<&Value>| {
        let items = list.and_then(Value::as_array).into_iter().flatten();
        let texts: Vec<_> = items.filter_map(|item| item.get("text")?.as_str()).collect();
        texts.join("\n\n")
    };
    let summary = texts(summary);
    if summary.is_empty() { texts(content) } else { summary }
}

/// Writes messages as items: each call, result and piece of reasoning is one of its own.
pub(super) fn encode(messages: &[Message], request: &Request) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for message in messages.iter().filter(|message| !message.extra.contains_key(INSTRUCTIONS)) {
        let mut said = Vec::new();
        for part in &message.content {
            match &part.content {
                Content::ToolCall(_) | Content::ToolResult(_) | Content::Reasoning(_) => {
                    flush(&mut said, message, request, &mut items)?;
                    items.extend(own_item(part, request)?);
                }
                // Only whole items of this dialect, such as calls of its own tools, stand alone in a message.
                Content::Other(value) if message.content.len() == 1 && request.origin == Some(TARGET) => {
                    items.push(value.clone());
                }
                _ => said.push(part),
            }
        }
        flush(&mut said, message, request, &mut items)?;
    }
    Ok(items)
}

fn flush(
    said: &mut Vec<&Part>,
    message: &Message,
    request: &Request,
    items: &mut Vec<Value>,
) -> Result<(), Error> {
    if said.is_empty() {
        return Ok(());
    }
    let role = if message.role == Role::Tool { Role::User } else { message.role };
    let mut map = Map::new();
    put(&mut map, "role", Some(role.as_str()));
    let content = content::encode(said, role == Role::Assistant, request)?;
    map.insert("content".to_owned(), content);
    carry_extra(&mut map, &message.extra, request, TARGET)?;
    items.push(Value::Object(map));
    said.clear();
    Ok(())
}

fn own_item(part: &Part, request: &Request) -> Result<Option<Value>, Error> {
    let mut map = match &part.content {
        Content::ToolCall(call) => {
            let mut map = typed("function_call", "call_id", call.id.as_str());
            put(&mut map, "name", Some(call.name.as_str()));
            put(&mut map, "arguments", Some(call.arguments.as_str()));
            map
        }
        Content::ToolResult(result) => {
            let mut map = typed("function_call_output", "call_id", result.call_id.as_str());
            let parts: Vec<&Part> = result.content.iter().collect();
            let output = if parts.is_empty() { json!("") } else { content::encode(&parts, false, request)? };
            map.insert("output".to_owned(), output);
            map
        }
        Content::Reasoning(reasoning) => match encode_reasoning(reasoning, part, request) {
            Some(map) => map,
            None => return Ok(None),
        },
        _ => return Err(untranslatable("content", TARGET)),
    };
    carry_extra(&mut map, &part.extra, request, TARGET)?;
    Ok(Some(Value::Object(map)))
}

/// Reasoning that this dialect did not issue is left out: it means nothing here.
fn encode_reasoning(reasoning: &Reasoning, part: &Part, request: &Request) -> Option<Map<String, Value>> {
    let opaque = reasoning.opaque.as_ref().filter(|opaque| opaque.dialect == TARGET);
    let same = request.origin == Some(TARGET);
    if opaque.is_none() && !same {
        return None;
    }
    let mut map = Map::from_iter([("type".to_owned(), json!("reasoning"))]);
    put(&mut map, "id", opaque.and_then(|opaque| opaque.id.as_deref()));
    put(&mut map, ENCRYPTED, opaque.map(|opaque| opaque.value.as_str()));
    if !same || !(part.extra.contains_key("summary") || part.extra.contains_key("content")) {
        let summary = match reasoning.text.as_str() {
            "" => json!([]),
            text => json!([{"type": "summary_text", "text": text}]),
        };
        map.insert("summary".to_owned(), summary);
    }
    Some(map)
}
