//! Every string of a request, for those who must look at all of them before any leaves.

use serde_json::{Map, Value};

use crate::files::{attached, holds_a_file};
use crate::json::{JsonLimits, parse_json};
use crate::{
    Content, Extra, Function, JsonSchema, Media, MediaSource, Opaque, OutputFormat, Part, Prompt, Request,
    Tool, ToolChoice, sabotage,
};

/// Where a string of a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// The model's name.
    Model,
    /// Text of a message.
    Text,
    /// A name: of a speaker, of a file.
    Name,
    /// A string or key inside the arguments of a tool call.
    ToolArguments,
    /// Text of a tool's result.
    ToolResult,
    /// A tool's name, description or schema.
    ToolDefinition,
    /// The name, description or schema of the answer's form.
    Format,
    /// A file's bytes in base64, which no reader of text can judge.
    Media,
    /// An address of a file.
    Url,
    /// An id of a file that was uploaded before, or a string of an unknown part that holds or names a file.
    File,
    /// A value that only its provider understands. A change makes it worthless.
    Opaque,
    /// Ids that tie results to calls, and words of the dialect.
    Protocol,
    /// A text that ends the answer.
    Stop,
    /// What the caller sent for bookkeeping.
    Label,
    /// A key of an object that the tree has no name for.
    Key,
    /// A string inside such an object.
    Extra,
}

/// Numbers of so many characters are shown like strings: one figure alone says nothing of anybody.
const SHORTEST_NUMBER: usize = 2;

/// Sees a string and may change it.
type Visit<'a> = dyn FnMut(Place, &mut String) + 'a;

impl Request {
    /// Shows every string of the request, keys and unknown fields included, to `visit`, which may change it. What is
    /// sent to a backend is written from this tree, so nothing leaves that was not shown.
    pub fn visit_strings(&mut self, visit: &mut Visit<'_>) {
        visit(Place::Model, &mut self.model);
        match &mut self.prompt {
            Prompt::Chat(messages) => {
                for message in messages {
                    optional(&mut message.name, Place::Name, visit);
                    message.content.iter_mut().for_each(|part| part_strings(part, Place::Text, visit));
                    entries(&mut message.extra, attached, visit);
                }
            }
            Prompt::Text { text, suffix } => {
                visit(Place::Text, text);
                optional(suffix, Place::Text, visit);
            }
            Prompt::Tokens(_) => {}
        }
        self.tools.iter_mut().for_each(|tool| tool_strings(tool, visit));
        match &mut self.tool_choice {
            Some(ToolChoice::Named(name)) => visit(Place::Protocol, name),
            Some(ToolChoice::Allowed { names, .. }) => {
                for name in names {
                    visit(Place::Protocol, name);
                }
            }
            Some(ToolChoice::Other(value)) => visit_value(value, Place::Extra, visit),
            _ => {}
        }
        if let Some(OutputFormat::JsonSchema(schema)) = &mut self.format {
            schema_strings(schema, visit);
        }
        optional(&mut self.reasoning.effort, Place::Protocol, visit);
        optional(&mut self.reasoning.summary, Place::Protocol, visit);
        extra(&mut self.reasoning.extra, visit);
        self.stop.iter_mut().for_each(|stop| visit(Place::Stop, stop));
        let labels = &mut self.labels;
        for label in [&mut labels.user, &mut labels.safety_identifier, &mut labels.prompt_cache_key] {
            optional(label, Place::Label, visit);
        }
        if let Some(metadata) = &mut labels.metadata {
            object(metadata, Place::Label, visit);
        }
        extra(&mut self.extra, visit);
    }
}

fn tool_strings(tool: &mut Tool, visit: &mut Visit<'_>) {
    match tool {
        Tool::Function(Function { name, description, parameters, strict: _, extra: more }) => {
            visit(Place::ToolDefinition, name);
            optional(description, Place::ToolDefinition, visit);
            if let Some(parameters) = parameters {
                visit_value(parameters, Place::ToolDefinition, visit);
            }
            extra(more, visit);
        }
        Tool::Other(value) => visit_value(value, Place::Extra, visit),
    }
}

fn schema_strings(schema: &mut JsonSchema, visit: &mut Visit<'_>) {
    let JsonSchema { name, description, schema, strict: _, extra: more } = schema;
    optional(name, Place::Format, visit);
    optional(description, Place::Format, visit);
    visit_value(schema, Place::Format, visit);
    extra(more, visit);
}

fn part_strings(part: &mut Part, place: Place, visit: &mut Visit<'_>) {
    match &mut part.content {
        Content::Text(text) | Content::Refusal(text) => visit(place, text),
        Content::Image(media) | Content::Document(media) | Content::Audio(media) => {
            media_strings(media, place, visit);
        }
        Content::ToolCall(call) => {
            visit(Place::Protocol, &mut call.id);
            visit(Place::Protocol, &mut call.name);
            if !sabotage::breaks(sabotage::Break::ToolArguments) {
                arguments(&mut call.arguments, visit);
            }
            opaque(&mut call.opaque, visit);
        }
        Content::ToolResult(result) => {
            visit(Place::Protocol, &mut result.call_id);
            optional(&mut result.name, Place::Protocol, visit);
            result.content.iter_mut().for_each(|part| part_strings(part, Place::ToolResult, visit));
        }
        Content::Reasoning(reasoning) => {
            visit(place, &mut reasoning.text);
            opaque(&mut reasoning.opaque, visit);
        }
        Content::Other(value) => {
            let place = if holds_a_file(value) { Place::File } else { Place::Extra };
            visit_value(value, place, visit);
        }
    }
    extra(&mut part.extra, visit);
}

fn media_strings(media: &mut Media, place: Place, visit: &mut Visit<'_>) {
    match &mut media.source {
        MediaSource::Inline(data) => visit(Place::Media, data),
        MediaSource::Text(text) => visit(place, text),
        MediaSource::Url(url) => visit(Place::Url, url),
        MediaSource::FileId(id) => visit(Place::File, id),
    }
    optional(&mut media.media_type, Place::Protocol, visit);
    optional(&mut media.name, Place::Name, visit);
}

/// The strings inside a tool call's arguments, or, when these are no JSON, the whole text. Where a key stands twice only
/// its last value is shown, so only that one stays.
fn arguments(text: &mut String, visit: &mut Visit<'_>) {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            let limits = JsonLimits { bytes: usize::MAX, depth: usize::MAX, values: usize::MAX };
            let plain = parse_json(text.as_bytes(), limits).is_ok();
            let before = value.clone();
            visit_value(&mut value, Place::ToolArguments, visit);
            if value != before || !plain {
                *text = value.to_string();
            }
        }
        Err(_) => visit(Place::ToolArguments, text),
    }
}

fn opaque(opaque: &mut Option<Opaque>, visit: &mut Visit<'_>) {
    if let Some(Opaque { dialect: _, kind, value, id }) = opaque {
        visit(Place::Protocol, kind);
        visit(Place::Opaque, value);
        optional(id, Place::Protocol, visit);
    }
}

fn optional(text: &mut Option<String>, place: Place, visit: &mut Visit<'_>) {
    if let Some(text) = text {
        visit(place, text);
    }
}

fn extra(fields: &mut Extra, visit: &mut Visit<'_>) {
    object(fields, Place::Extra, visit);
}

/// Shows the strings, keys and numbers of a JSON value to `visit`. Keys come as [`Place::Key`].
pub fn visit_value(value: &mut Value, place: Place, visit: &mut Visit<'_>) {
    match value {
        Value::String(text) => visit(place, text),
        Value::Array(items) => items.iter_mut().for_each(|item| visit_value(item, place, visit)),
        Value::Object(map) => object(map, place, visit),
        // A number may be an identifier, as its key says; what replaces it is text.
        Value::Number(number) => {
            let before = number.to_string();
            let mut text = before.clone();
            if before.len() >= SHORTEST_NUMBER {
                visit(place, &mut text);
            }
            if text != before {
                *value = Value::String(text);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn object(map: &mut Map<String, Value>, place: Place, visit: &mut Visit<'_>) {
    entries(map, |_| place, visit);
}

/// Shows the entries of an object, each value at the place that its key says.
fn entries(map: &mut Map<String, Value>, place: impl Fn(&str) -> Place, visit: &mut Visit<'_>) {
    if map.is_empty() {
        return;
    }
    for (mut key, mut value) in std::mem::take(map) {
        let place = place(&key);
        visit(Place::Key, &mut key);
        visit_value(&mut value, place, visit);
        map.insert(key, value);
    }
}
