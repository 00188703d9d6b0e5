//! The messages of a chat: read and written.

use serde_json::{Map, Value, json};

use super::Limits;
use super::chat_request::is_empty_array;
use crate::fields::{Fields, invalid_value, too_many, wrong_type};
use crate::wire::{from_url, string_or_parts};
use crate::{
    Content, Dialect, Error, Extra, Media, MediaSource, Message, Opaque, Part, Reasoning, Role, ToolCall,
    ToolResult,
};

/// Marks a piece of reasoning in a message's `reasoning_details` as one that Nearfield handed out.
pub(super) const OPAQUE_DETAIL: &str = "nearfield.opaque";

pub(super) fn decode(fields: &mut Fields, limits: &Limits) -> Result<Vec<Message>, Error> {
    let value = fields.required("messages")?;
    let Value::Array(items) = value else { return Err(wrong_type("messages", "an array", &value)) };
    if items.is_empty() {
        return Err(invalid_value("messages", "must hold at least one message"));
    }
    if items.len() > limits.messages {
        return Err(too_many("messages", "messages", limits.messages));
    }
    let messages: Vec<_> = items
        .into_iter()
        .enumerate()
        .map(|(i, item)| message(Fields::of(item, &format!("messages[{i}]"))?, limits))
        .collect::<Result<_, Error>>()?;
    let bytes: usize = messages.iter().map(Message::bytes).sum();
    if bytes > limits.prompt_bytes {
        return Err(too_many("messages", "bytes of text", limits.prompt_bytes));
    }
    Ok(messages)
}

fn message(mut fields: Fields, limits: &Limits) -> Result<Message, Error> {
    let role = role(&mut fields)?;
    let name = fields.string("name")?;
    if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > limits.name_bytes) {
        return Err(invalid_value(
            &fields.path_of("name"),
            &format!("must have 1 to {} bytes", limits.name_bytes),
        ));
    }
    let mut content = Vec::new();
    let mut calls = Vec::new();
    if role == Role::Assistant {
        // Clients send back whole messages that they received, with these fields empty.
        fields.drop_if("annotations", is_empty_array);
        reasoning(&mut fields, &mut content)?;
        calls = tool_calls(&mut fields)?;
    }
    let path = fields.path_of("content");
    if role == Role::Tool {
        let call_id = fields.required_string("tool_call_id")?;
        let result = parts(fields.required("content")?, &path)?;
        let result = ToolResult { call_id, name: None, content: result, is_error: None };
        content.push(Content::ToolResult(result).into());
    } else {
        let may_be_empty = !calls.is_empty() || fields.has("refusal") || fields.has("audio");
        match fields.take("content") {
            Some(value) => content.append(&mut parts(value, &path)?),
            None if may_be_empty => {}
            None => return Err(fields.missing("content")),
        }
    }
    if role == Role::Assistant
        && let Some(refusal) = fields.string("refusal")?
    {
        content.push(Content::Refusal(refusal).into());
    }
    content.append(&mut calls);
    Ok(Message { role, content, name, extra: fields.rest() })
}

fn role(fields: &mut Fields) -> Result<Role, Error> {
    let value = fields.required("role")?;
    match value.as_str() {
        Some("system") => Ok(Role::System),
        Some("developer") => Ok(Role::Developer),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        Some(_) => {
            Err(invalid_value(&fields.path_of("role"), "must be system, developer, user, assistant or tool"))
        }
        None => Err(wrong_type(&fields.path_of("role"), "a string", &value)),
    }
}

/// What the model thought, as servers of this dialect write it, and as we do with values that must come back.
fn reasoning(fields: &mut Fields, content: &mut Vec<Part>) -> Result<(), Error> {
    let ours = |detail: &Value| detail.get("type").and_then(Value::as_str) == Some(OPAQUE_DETAIL);
    let text = fields.string("reasoning_content")?;
    let details = fields.array("reasoning_details")?.unwrap_or_default();
    let (ours, theirs): (Vec<_>, Vec<_>) = details.into_iter().partition(ours);
    if !theirs.is_empty() {
        fields.put_back("reasoning_details", Value::Array(theirs));
    }
    if ours.is_empty() {
        if let Some(text) = text {
            content.push(Content::Reasoning(Reasoning { text, opaque: None }).into());
        }
        return Ok(());
    }
    let path = fields.path_of("reasoning_details");
    for (i, detail) in ours.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let mut detail = Fields::of(detail, &path)?;
        detail.take("type");
        let dialect = Dialect::parse(&detail.required_string("dialect")?).ok_or_else(|| {
            invalid_value(&format!("{path}.dialect"), "must be a dialect that Nearfield speaks")
        })?;
        let opaque = Opaque {
            dialect,
            kind: detail.required_string("kind")?,
            value: detail.required_string("value")?,
            id: detail.string("id")?,
        };
        let text = detail.string("text")?.unwrap_or_default();
        content.push(Content::Reasoning(Reasoning { text, opaque: Some(opaque) }).into());
    }
    Ok(())
}

fn tool_calls(fields: &mut Fields) -> Result<Vec<Part>, Error> {
    let path = fields.path_of("tool_calls");
    let items = fields.array("tool_calls")?.unwrap_or_default();
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| {
            let mut call = Fields::of(item, &format!("{path}[{i}]"))?;
            if call.peek("type").is_some_and(|kind| kind != "function") {
                return Ok(Content::Other(call.into_value()).into());
            }
            call.take("type");
            let id = call.required_string("id")?;
            let mut function = call.object("function")?.ok_or_else(|| call.missing("function"))?;
            let tool_call = ToolCall {
                id,
                name: function.required_string("name")?,
                arguments: function.string("arguments")?.unwrap_or_default(),
                opaque: thought_signature(&mut call),
            };
            Ok(Part { content: Content::ToolCall(tool_call), extra: call.rest() })
        })
        .collect()
}

/// Google's compatible server hands out a signature with a call, here.
fn thought_signature(call: &mut Fields) -> Option<Opaque> {
    let mut extra = call.take("extra_content")?;
    let signature = extra.get_mut("google").and_then(Value::as_object_mut)?.remove("thought_signature");
    if let Some(Value::String(value)) = signature {
        return Some(Opaque {
            dialect: Dialect::Gemini,
            kind: "thoughtSignature".to_owned(),
            value,
            id: None,
        });
    }
    call.put_back("extra_content", extra);
    None
}

/// A message's content: a string, or an array of parts.
fn parts(value: Value, path: &str) -> Result<Vec<Part>, Error> {
    match value {
        Value::Array(parts) if parts.is_empty() => Err(invalid_value(path, "must hold at least one part")),
        value => string_or_parts(value, path, "parts", part),
    }
}

fn part(mut fields: Fields) -> Result<Part, Error> {
    let path = fields.path_of("type");
    let kind = match fields.required("type")? {
        Value::String(kind) => kind,
        other => return Err(wrong_type(&path, "a string", &other)),
    };
    let content = match kind.as_str() {
        "text" => Content::Text(fields.required_string("text")?),
        "refusal" => Content::Refusal(fields.required_string("refusal")?),
        "image_url" => {
            let mut image = fields.object("image_url")?.ok_or_else(|| fields.missing("image_url"))?;
            let (source, media_type) = from_url(image.required_string("url")?);
            let content = Content::Image(Media { source, media_type, name: None });
            return Ok(Part { content, extra: image.rest() });
        }
        "input_audio" => {
            let mut audio = fields.object("input_audio")?.ok_or_else(|| fields.missing("input_audio"))?;
            let source = MediaSource::Inline(audio.required_string("data")?);
            let format = audio.required_string("format")?;
            Content::Audio(Media { source, media_type: Some(format!("audio/{format}")), name: None })
        }
        "file" => {
            let mut file = fields.object("file")?.ok_or_else(|| fields.missing("file"))?;
            let name = file.string("filename")?;
            let (source, media_type) = match (file.string("file_data")?, file.string("file_id")?) {
                (Some(data), _) => from_url(data),
                (None, Some(id)) => (MediaSource::FileId(id), None),
                (None, None) => return Err(file.missing("file_data")),
            };
            Content::Document(Media { source, media_type, name })
        }
        _ => {
            fields.put_back("type", kind.into());
            return Ok(Content::Other(fields.into_value()).into());
        }
    };
    Ok(Part { content, extra: fields.rest() })
}

/// Writes an opaque value with the text that it belongs to.
pub(super) fn opaque_detail(text: &str, opaque: &Opaque) -> Value {
    let mut detail = json!({"type": OPAQUE_DETAIL, "dialect": opaque.dialect.as_str(), "kind": opaque.kind,
        "value": opaque.value, "text": text});
    if let Some(id) = &opaque.id {
        detail["id"] = json!(id);
    }
    detail
}

/// Whether the parts are one plain text.
pub(super) fn single_text(parts: &[Part]) -> Option<&str> {
    match parts {
        [only] if only.extra.is_empty() => only.as_text(),
        _ => None,
    }
}

/// An object from a type and a field with its own fields behind.
pub(super) fn nested(kind: &str, inner: Map<String, Value>, extra: &Extra) -> Value {
    let mut inner = inner;
    crate::wire::put_extra(&mut inner, extra);
    json!({"type": kind, kind: inner})
}
