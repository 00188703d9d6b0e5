//! Content blocks: read and written. A block is an object of one field, which names its kind.

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::wire::{arguments_value, carry_extra, put, untranslatable};
use crate::{
    Content, Dialect, Error, Extra, Media, MediaSource, Opaque, Part, Reasoning, Request, ToolCall,
    ToolResult,
};

const TARGET: Dialect = Dialect::Bedrock;
pub(super) const SIGNATURE: &str = "signature";
pub(super) const REDACTED: &str = "redactedContent";

/// A value of Bedrock's that must come back.
pub(super) fn opaque(kind: &str, value: String) -> Opaque {
    Opaque { dialect: TARGET, kind: kind.to_owned(), value, id: None }
}

/// Media types by the format names of this dialect.
const FORMATS: [(&str, &str); 14] = [
    ("png", "image/png"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("pdf", "application/pdf"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("txt", "text/plain"),
    ("md", "text/markdown"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("jpeg", "image/jpg"),
];

pub(super) fn decode_all(items: Vec<Value>, path: &str) -> Result<Vec<Part>, Error> {
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| decode(Fields::of(item, &format!("{path}[{i}]"))?))
        .collect()
}

fn decode(mut fields: Fields) -> Result<Part, Error> {
    if let Some(text) = fields.string("text")? {
        return Ok(Part { content: Content::Text(text), extra: fields.rest() });
    }
    if let Some(mut call) = fields.object("toolUse")? {
        let tool_call = ToolCall {
            id: call.required_string("toolUseId")?,
            name: call.required_string("name")?,
            arguments: call.take("input").unwrap_or_else(|| json!({})).to_string(),
            opaque: None,
        };
        return Ok(Part { content: Content::ToolCall(tool_call), extra: call.rest() });
    }
    if let Some(mut result) = fields.object("toolResult")? {
        let path = result.path_of("content");
        let content = decode_all(result.array("content")?.unwrap_or_default(), &path)?;
        let call_id = result.required_string("toolUseId")?;
        let is_error = result.string("status")?.map(|status| status == "error");
        let result_part = ToolResult { call_id, name: None, content, is_error };
        return Ok(Part { content: Content::ToolResult(result_part), extra: result.rest() });
    }
    for (kind, image) in [("image", true), ("document", false)] {
        let bytes = fields.get(kind).and_then(|value| value.pointer("/source/bytes")).is_some();
        if bytes && let Some(media) = fields.object(kind)? {
            return decode_media(media, image);
        }
    }
    if let Some(mut reasoning) = fields.object("reasoningContent")? {
        if let Some(data) = reasoning.string(REDACTED)? {
            let content = Reasoning { text: String::new(), opaque: Some(opaque(REDACTED, data)) };
            return Ok(Content::Reasoning(content).into());
        }
        let mut text =
            reasoning.object("reasoningText")?.ok_or_else(|| reasoning.missing("reasoningText"))?;
        let opaque = text.string(SIGNATURE)?.map(|value| opaque(SIGNATURE, value));
        return Ok(Content::Reasoning(Reasoning { text: text.required_string("text")?, opaque }).into());
    }
    Ok(Content::Other(fields.into_value()).into())
}

fn decode_media(mut fields: Fields, image: bool) -> Result<Part, Error> {
    let format = fields.string("format")?.unwrap_or_default();
    let known =
        FORMATS.iter().find(|(name, _)| *name == format).map(|(_, media_type)| (*media_type).to_owned());
    let mut source = fields.object("source")?.ok_or_else(|| fields.missing("source"))?;
    let media = Media {
        source: MediaSource::Inline(source.required_string("bytes")?),
        media_type: Some(known.unwrap_or(format)),
        name: fields.string("name")?,
    };
    let content = if image { Content::Image(media) } else { Content::Document(media) };
    Ok(Part { content, extra: fields.rest() })
}

/// Writes parts as blocks. Reasoning that this dialect did not issue is left out: it means nothing here.
pub(super) fn encode(parts: &[Part], request: &Request) -> Result<Vec<Value>, Error> {
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        if let Some(block) = encode_part(part, request)? {
            blocks.push(block);
        }
    }
    Ok(blocks)
}

fn encode_part(part: &Part, request: &Request) -> Result<Option<Value>, Error> {
    let same = request.origin == Some(TARGET);
    let (name, mut map) = match &part.content {
        Content::Text(text) | Content::Refusal(text) => {
            let mut map = Map::from_iter([("text".to_owned(), Value::from(text.as_str()))]);
            carry_extra(&mut map, &part.extra, request, TARGET)?;
            return Ok(Some(Value::Object(map)));
        }
        Content::Image(media) => ("image", encode_media(media, "image")?),
        Content::Document(media) => ("document", encode_media(media, "document")?),
        Content::ToolCall(call) => {
            let mut map = Map::new();
            put(&mut map, "toolUseId", Some(call.id.as_str()));
            put(&mut map, "name", Some(call.name.as_str()));
            map.insert("input".to_owned(), arguments_value(&call.arguments, "tool_calls.arguments")?);
            ("toolUse", map)
        }
        Content::ToolResult(result) => {
            let mut map = Map::new();
            put(&mut map, "toolUseId", Some(result.call_id.as_str()));
            let mut content = encode(&result.content, request)?;
            if content.is_empty() && !same {
                content.push(json!({"text": ""}));
            }
            map.insert("content".to_owned(), Value::Array(content));
            put(&mut map, "status", result.is_error.map(|error| if error { "error" } else { "success" }));
            ("toolResult", map)
        }
        Content::Reasoning(reasoning) => {
            let map = encode_reasoning(reasoning, same);
            return Ok(map.map(|map| json!({"reasoningContent": map})));
        }
        Content::Other(value) if same => return Ok(Some(value.clone())),
        _ => return Err(untranslatable("content", TARGET)),
    };
    carry_extra(&mut map, &part.extra, request, TARGET)?;
    Ok(Some(json!({name: map})))
}

fn encode_reasoning(reasoning: &Reasoning, same: bool) -> Option<Map<String, Value>> {
    let text = |signature: Option<&str>| {
        let mut inner = Extra::new();
        put(&mut inner, "text", Some(reasoning.text.as_str()));
        put(&mut inner, SIGNATURE, signature);
        Map::from_iter([("reasoningText".to_owned(), Value::Object(inner))])
    };
    match &reasoning.opaque {
        Some(opaque) if opaque.dialect == TARGET && opaque.kind == REDACTED => {
            Some(Map::from_iter([(REDACTED.to_owned(), Value::from(opaque.value.as_str()))]))
        }
        Some(opaque) if opaque.dialect == TARGET => Some(text(Some(&opaque.value))),
        None if same => Some(text(None)),
        _ => None,
    }
}

fn encode_media(media: &Media, kind: &str) -> Result<Map<String, Value>, Error> {
    let media_type =
        media.media_type.as_deref().unwrap_or(if kind == "image" { "image/png" } else { "text/plain" });
    let format = FORMATS.iter().find(|(_, known)| *known == media_type).map_or(media_type, |(name, _)| *name);
    let bytes = match &media.source {
        MediaSource::Inline(data) => data.clone(),
        MediaSource::Text(text) => base64(text.as_bytes()),
        MediaSource::Url(_) | MediaSource::FileId(_) => return Err(untranslatable(kind, TARGET)),
    };
    let mut map = Map::new();
    put(&mut map, "format", Some(format));
    map.insert("source".to_owned(), json!({"bytes": bytes}));
    if kind == "document" {
        // A name is required, of letters, digits, spaces and few signs.
        let name = media.name.as_deref().unwrap_or("document").chars().take(200);
        let allowed = |c: char| if c.is_ascii_alphanumeric() || " -()[]".contains(c) { c } else { '-' };
        put(&mut map, "name", Some(name.map(allowed).collect::<String>()));
    }
    Ok(map)
}

/// Base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_rfc() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(super::base64(text.as_bytes()), encoded);
        }
    }
}
