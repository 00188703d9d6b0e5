//! Parts of a content: read and written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::fields::{Fields, invalid_value};
use crate::wire::{arguments_value, carry_extra, put, untranslatable};
use crate::{
    Content, Dialect, Error, Media, MediaSource, Opaque, Part, Reasoning, Request, ToolCall, ToolResult,
};

const TARGET: Dialect = Dialect::Gemini;
/// The kind of a signature that belongs to a call or a thought.
pub(super) const SIGNATURE: &str = "thoughtSignature";
/// The kind of a signature that belongs to the text before it.
pub(super) const TEXT_SIGNATURE: &str = "thoughtSignature/text";
/// How ids of calls begin that we made up, because the provider gave none.
pub(super) const OWN_ID: &str = "nfcall_";

/// A value of Google's that must come back.
pub(super) fn opaque(kind: &str, value: String) -> Opaque {
    Opaque { dialect: TARGET, kind: kind.to_owned(), value, id: None }
}

/// One part. Field names come in two spellings.
pub(super) fn decode(mut fields: Fields) -> Result<Part, Error> {
    if let Some(mut call) = fields.either_object("functionCall", "function_call")? {
        let name = call.required_string("name")?;
        let tool_call = ToolCall {
            id: call.string("id")?.unwrap_or_default(),
            name,
            arguments: call.take("args").map_or_else(|| "{}".to_owned(), |args| args.to_string()),
            opaque: fields.string(SIGNATURE)?.map(|value| opaque(SIGNATURE, value)),
        };
        call.finish()?;
        return Ok(Part { content: Content::ToolCall(tool_call), extra: fields.rest() });
    }
    if let Some(mut response) = fields.either_object("functionResponse", "function_response")? {
        let name = response.required_string("name")?;
        let text = response.take("response").unwrap_or_else(|| json!({})).to_string();
        let id = response.string("id")?.unwrap_or_default();
        let result =
            ToolResult { call_id: id, name: Some(name), content: vec![Part::text(text)], is_error: None };
        response.finish()?;
        return Ok(Part { content: Content::ToolResult(result), extra: fields.rest() });
    }
    if fields.peek("text").is_some() {
        return text(fields);
    }
    media(fields)
}

fn text(mut fields: Fields) -> Result<Part, Error> {
    let text = fields.required_string("text")?;
    if fields.bool("thought")? == Some(true) {
        let opaque = fields.string(SIGNATURE)?.map(|value| opaque(SIGNATURE, value));
        return Ok(Part { content: Content::Reasoning(Reasoning { text, opaque }), extra: fields.rest() });
    }
    Ok(Part { content: Content::Text(text), extra: fields.rest() })
}

fn media(mut fields: Fields) -> Result<Part, Error> {
    let inline = fields.either_object("inlineData", "inline_data")?;
    let (source, mut inner) = if let Some(mut inline) = inline {
        (MediaSource::Inline(inline.required_string("data")?), inline)
    } else if let Some(mut file) = fields.either_object("fileData", "file_data")? {
        let uri = file.either_string("fileUri", "file_uri")?.ok_or_else(|| file.missing("fileUri"))?;
        (MediaSource::Url(uri), file)
    } else {
        return Ok(Content::Other(fields.into_value()).into());
    };
    let media_type = inner.either_string("mimeType", "mime_type")?;
    let name = inner.either_string("displayName", "display_name")?;
    inner.finish()?;
    let kind = media_type.clone().unwrap_or_default();
    let media = Media { source, media_type, name };
    let content = match kind.split('/').next() {
        Some("image") => Content::Image(media),
        Some("audio") => Content::Audio(media),
        _ => Content::Document(media),
    };
    Ok(Part { content, extra: fields.rest() })
}

/// Writes parts. `names` knows the tools of the calls so far, since results must name them.
pub(super) fn encode(
    parts: &[Part],
    names: &mut BTreeMap<String, String>,
    request: &Request,
) -> Result<Vec<Value>, Error> {
    let mut written: Vec<Map<String, Value>> = Vec::with_capacity(parts.len());
    for part in parts {
        let mut map = match &part.content {
            Content::Text(text) | Content::Refusal(text) => of("text", text.as_str()),
            Content::Reasoning(reasoning) => match reasoning_part(reasoning, request, &mut written) {
                Some(map) => map,
                None => continue,
            },
            Content::ToolCall(call) => {
                names.insert(call.id.clone(), call.name.clone());
                tool_call(call)?
            }
            Content::ToolResult(result) => tool_result(result, names)?,
            Content::Image(media) | Content::Audio(media) | Content::Document(media) => media_part(media)?,
            Content::Other(Value::Object(map)) if request.origin == Some(TARGET) => map.clone(),
            Content::Other(_) => return Err(untranslatable("content", TARGET)),
        };
        carry_extra(&mut map, &part.extra, request, TARGET)?;
        written.push(map);
    }
    Ok(written.into_iter().map(Value::Object).collect())
}

fn of(name: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.into())])
}

/// Thoughts of other providers are left out: they mean nothing here.
fn reasoning_part(
    reasoning: &Reasoning,
    request: &Request,
    written: &mut [Map<String, Value>],
) -> Option<Map<String, Value>> {
    match &reasoning.opaque {
        Some(opaque) if opaque.dialect == TARGET && opaque.kind == TEXT_SIGNATURE => {
            if let Some(last) = written.last_mut().filter(|map| map.contains_key("text")) {
                put(last, SIGNATURE, Some(opaque.value.as_str()));
                return None;
            }
            let mut map = of("text", "");
            put(&mut map, SIGNATURE, Some(opaque.value.as_str()));
            Some(map)
        }
        Some(opaque) if opaque.dialect == TARGET => {
            let mut map = of("text", reasoning.text.as_str());
            put(&mut map, "thought", Some(true));
            put(&mut map, SIGNATURE, Some(opaque.value.as_str()));
            Some(map)
        }
        None if request.origin == Some(TARGET) => {
            let mut map = of("text", reasoning.text.as_str());
            put(&mut map, "thought", Some(true));
            Some(map)
        }
        _ => None,
    }
}

fn tool_call(call: &ToolCall) -> Result<Map<String, Value>, Error> {
    let mut inner = Map::new();
    put(&mut inner, "id", own_id(&call.id));
    put(&mut inner, "name", Some(call.name.as_str()));
    inner.insert("args".to_owned(), arguments_value(&call.arguments, "tool_calls.arguments")?);
    let mut map = of("functionCall", inner);
    let signature = call.opaque.as_ref().filter(|opaque| opaque.dialect == TARGET);
    put(&mut map, SIGNATURE, signature.map(|opaque| opaque.value.as_str()));
    Ok(map)
}

fn own_id(id: &str) -> Option<&str> {
    Some(id).filter(|id| !id.is_empty() && !id.starts_with(OWN_ID))
}

fn tool_result(result: &ToolResult, names: &BTreeMap<String, String>) -> Result<Map<String, Value>, Error> {
    let name = result.name.as_ref().or_else(|| names.get(&result.call_id)).ok_or_else(|| {
        invalid_value("messages", "hold a tool's result whose call is not among the messages before it")
    })?;
    let mut text = String::new();
    for part in &result.content {
        match &part.content {
            Content::Text(piece) => text.push_str(piece),
            _ => return Err(untranslatable("tool_result", TARGET)),
        }
    }
    // An object is the response itself; other dialects give back plain text.
    let response = match serde_json::from_str::<Value>(&text) {
        Ok(value @ Value::Object(_)) => value,
        _ if result.is_error == Some(true) => json!({"error": text}),
        _ => json!({"result": text}),
    };
    let mut inner = Map::new();
    put(&mut inner, "id", own_id(&result.call_id));
    put(&mut inner, "name", Some(name.as_str()));
    inner.insert("response".to_owned(), response);
    Ok(of("functionResponse", inner))
}

fn media_part(media: &Media) -> Result<Map<String, Value>, Error> {
    let mut inner = Map::new();
    let name = match &media.source {
        MediaSource::Inline(data) => {
            let media_type = media.media_type.as_deref().unwrap_or("application/octet-stream");
            put(&mut inner, "mimeType", Some(media_type));
            put(&mut inner, "data", Some(data.as_str()));
            "inlineData"
        }
        MediaSource::Url(url) => {
            put(&mut inner, "fileUri", Some(url.as_str()));
            put(&mut inner, "mimeType", media.media_type.as_deref());
            "fileData"
        }
        MediaSource::Text(text) => return Ok(of("text", text.as_str())),
        MediaSource::FileId(_) => return Err(untranslatable("file_id", TARGET)),
    };
    put(&mut inner, "displayName", media.name.as_deref());
    Ok(of(name, inner))
}
