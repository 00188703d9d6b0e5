//! Parts of a message's content: read and written.

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::wire::{as_url, carry_extra, from_url, put, string_or_parts, typed, untranslatable};
use crate::{Content, Dialect, Error, Media, MediaSource, Part, Request};

const TARGET: Dialect = Dialect::OpenAiResponses;

/// Content: a string, or an array of parts.
pub(super) fn decode(value: Value, path: &str) -> Result<Vec<Part>, Error> {
    string_or_parts(value, path, "parts", part)
}

fn part(mut fields: Fields) -> Result<Part, Error> {
    let kind = fields.required_string("type")?;
    let content = match kind.as_str() {
        "input_text" | "output_text" | "text" => Content::Text(fields.required_string("text")?),
        "refusal" => Content::Refusal(fields.required_string("refusal")?),
        "input_image" => {
            let (source, media_type) = match (fields.string("image_url")?, fields.string("file_id")?) {
                (Some(url), _) => from_url(url),
                (None, Some(id)) => (MediaSource::FileId(id), None),
                (None, None) => return Err(fields.missing("image_url")),
            };
            Content::Image(Media { source, media_type, name: None })
        }
        "input_file" => {
            let name = fields.string("filename")?;
            let file = (fields.string("file_data")?, fields.string("file_url")?, fields.string("file_id")?);
            let (source, media_type) = match file {
                (Some(data), ..) => from_url(data),
                (None, Some(url), _) => (MediaSource::Url(url), None),
                (None, None, Some(id)) => (MediaSource::FileId(id), None),
                (None, None, None) => return Err(fields.missing("file_data")),
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

/// Writes the content of a message; a single plain text is a string.
pub(super) fn encode(parts: &[&Part], assistant: bool, request: &Request) -> Result<Value, Error> {
    if let [only] = parts
        && only.extra.is_empty()
        && let Some(text) = only.as_text()
    {
        return Ok(text.into());
    }
    parts.iter().map(|part| encode_part(part, assistant, request)).collect()
}

fn encode_part(part: &Part, assistant: bool, request: &Request) -> Result<Value, Error> {
    let mut map = match &part.content {
        Content::Text(text) if assistant => {
            let mut map = typed("output_text", "text", text.as_str());
            map.insert("annotations".to_owned(), json!([]));
            if request.origin == Some(TARGET) {
                map.extend(part.extra.clone());
            }
            map
        }
        Content::Text(text) => typed("input_text", "text", text.as_str()),
        Content::Refusal(text) => typed("refusal", "refusal", text.as_str()),
        Content::Image(media) => {
            let mut map = Map::from_iter([("type".to_owned(), json!("input_image"))]);
            match &media.source {
                MediaSource::FileId(id) => put(&mut map, "file_id", Some(id.as_str())),
                source => {
                    let url = as_url(source, media.media_type.as_deref());
                    put(&mut map, "image_url", Some(url.ok_or_else(|| untranslatable("image", TARGET))?));
                }
            }
            map
        }
        Content::Document(media) => {
            let mut map = Map::from_iter([("type".to_owned(), json!("input_file"))]);
            match &media.source {
                MediaSource::FileId(id) => put(&mut map, "file_id", Some(id.as_str())),
                MediaSource::Url(url) => put(&mut map, "file_url", Some(url.as_str())),
                MediaSource::Text(text) => return Ok(json!({"type": "input_text", "text": text})),
                source => put(&mut map, "file_data", as_url(source, media.media_type.as_deref())),
            }
            put(&mut map, "filename", media.name.as_deref());
            map
        }
        Content::Other(value) if request.origin == Some(TARGET) => return Ok(value.clone()),
        _ => return Err(untranslatable("content", TARGET)),
    };
    carry_extra(&mut map, &part.extra, request, TARGET)?;
    Ok(Value::Object(map))
}
