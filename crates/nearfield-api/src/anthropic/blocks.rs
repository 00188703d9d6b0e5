//! Content blocks: read and written.

use serde_json::{Map, Value, json};

use crate::fields::{Fields, invalid_value};
use crate::wire::{arguments_value, carry_extra, put, string_or_parts, typed, untranslatable};
use crate::{
    Content, Dialect, Error, Media, MediaSource, Opaque, Part, Reasoning, Request, ToolCall, ToolResult,
};

const TARGET: Dialect = Dialect::Anthropic;
pub(super) const SIGNATURE: &str = "signature";
pub(super) const REDACTED: &str = "redacted_thinking";

/// A value of Anthropic's that must come back.
pub(super) fn opaque(kind: &str, value: String) -> Opaque {
    Opaque { dialect: TARGET, kind: kind.to_owned(), value, id: None }
}

/// Content: a string, or an array of blocks.
pub(super) fn decode(value: Value, path: &str) -> Result<Vec<Part>, Error> {
    string_or_parts(value, path, "blocks", block)
}

fn block(mut fields: Fields) -> Result<Part, Error> {
    let kind = fields.required_string("type")?;
    let content = match kind.as_str() {
        "text" => Content::Text(fields.required_string("text")?),
        "image" | "document" => {
            let Some(source) = source(&mut fields)? else { return Ok(other(fields, &kind)) };
            let (source, media_type) = source;
            if kind == "image" {
                Content::Image(Media { source, media_type, name: None })
            } else {
                let name = fields.string("title")?;
                Content::Document(Media { source, media_type, name })
            }
        }
        "tool_use" => Content::ToolCall(ToolCall {
            id: fields.required_string("id")?,
            name: fields.required_string("name")?,
            arguments: fields.required("input")?.to_string(),
            opaque: None,
        }),
        "tool_result" => {
            let path = fields.path_of("content");
            let content = fields.take("content").map(|value| decode(value, &path)).transpose()?;
            Content::ToolResult(ToolResult {
                call_id: fields.required_string("tool_use_id")?,
                name: None,
                content: content.unwrap_or_default(),
                is_error: fields.bool("is_error")?,
            })
        }
        "thinking" => {
            let text = fields.required_string("thinking")?;
            let opaque = fields.string("signature")?.map(|value| opaque(SIGNATURE, value));
            Content::Reasoning(Reasoning { text, opaque })
        }
        "redacted_thinking" => {
            let opaque = Some(opaque(REDACTED, fields.required_string("data")?));
            Content::Reasoning(Reasoning { text: String::new(), opaque })
        }
        _ => return Ok(other(fields, &kind)),
    };
    Ok(Part { content, extra: fields.rest() })
}

fn other(mut fields: Fields, kind: &str) -> Part {
    fields.put_back("type", kind.into());
    Content::Other(fields.into_value()).into()
}

/// A file's source with its media type; `None`, and nothing taken, for a kind that the tree does not know.
fn source(fields: &mut Fields) -> Result<Option<(MediaSource, Option<String>)>, Error> {
    let value = fields.required("source")?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let source = match (text("type").as_deref(), text("data"), text("url"), text("file_id")) {
        (Some("base64"), Some(data), _, _) => Some((MediaSource::Inline(data), text("media_type"))),
        (Some("text"), Some(data), _, _) => Some((MediaSource::Text(data), text("media_type"))),
        (Some("url"), _, Some(url), _) => Some((MediaSource::Url(url), None)),
        (Some("file"), _, _, Some(id)) => Some((MediaSource::FileId(id), None)),
        (Some(_), ..) => None,
        (None, ..) => {
            return Err(invalid_value(&fields.path_of("source"), "must be an object with a type"));
        }
    };
    if source.is_none() {
        fields.put_back("source", value);
    }
    Ok(source)
}

/// Writes parts as blocks. Reasoning that this dialect did not issue is left out: it means nothing here.
pub(super) fn encode(parts: &[Part], request: &Request) -> Result<Vec<Value>, Error> {
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        if let Some(mut map) = encode_part(&part.content, request)? {
            carry_extra(&mut map, &part.extra, request, TARGET)?;
            blocks.push(Value::Object(map));
        } else if let Content::Other(value) = &part.content {
            blocks.push(value.clone());
        }
    }
    Ok(blocks)
}

fn encode_part(content: &Content, request: &Request) -> Result<Option<Map<String, Value>>, Error> {
    let map = match content {
        Content::Text(text) | Content::Refusal(text) => typed("text", "text", text.as_str()),
        Content::Image(media) => typed("image", "source", encode_source(media)),
        Content::Document(media) => {
            let mut map = typed("document", "source", encode_source(media));
            put(&mut map, "title", media.name.as_deref());
            map
        }
        Content::ToolCall(call) => {
            let mut map = typed("tool_use", "id", call.id.as_str());
            put(&mut map, "name", Some(call.name.as_str()));
            map.insert("input".to_owned(), arguments_value(&call.arguments, "tool_calls.arguments")?);
            map
        }
        Content::ToolResult(result) => {
            let mut map = typed("tool_result", "tool_use_id", result.call_id.as_str());
            let content = match result.content.as_slice() {
                [] => None,
                [only] if only.extra.is_empty() && only.as_text().is_some() => {
                    only.as_text().map(Value::from)
                }
                parts => Some(Value::Array(encode(parts, request)?)),
            };
            put(&mut map, "content", content);
            put(&mut map, "is_error", result.is_error);
            map
        }
        Content::Reasoning(reasoning) => match &reasoning.opaque {
            Some(opaque) if opaque.dialect == TARGET && opaque.kind == REDACTED => {
                typed(REDACTED, "data", opaque.value.as_str())
            }
            Some(opaque) if opaque.dialect == TARGET => {
                let mut map = typed("thinking", "thinking", reasoning.text.as_str());
                put(&mut map, SIGNATURE, Some(opaque.value.as_str()));
                map
            }
            None if request.origin == Some(TARGET) => typed("thinking", "thinking", reasoning.text.as_str()),
            _ => return Ok(None),
        },
        Content::Audio(_) => return Err(untranslatable("input_audio", TARGET)),
        Content::Other(_) if request.origin == Some(TARGET) => return Ok(None),
        Content::Other(_) => return Err(untranslatable("content", TARGET)),
    };
    Ok(Some(map))
}

fn encode_source(media: &Media) -> Value {
    let media_type = |default: &str| media.media_type.clone().unwrap_or_else(|| default.to_owned());
    match &media.source {
        MediaSource::Inline(data) => {
            json!({"type": "base64", "media_type": media_type("application/pdf"), "data": data})
        }
        MediaSource::Text(text) => {
            json!({"type": "text", "media_type": media_type("text/plain"), "data": text})
        }
        MediaSource::Url(url) => json!({"type": "url", "url": url}),
        MediaSource::FileId(id) => json!({"type": "file", "file_id": id}),
    }
}
