//! What one delta or message holds, piece by piece.

use serde_json::{Map, Value};

use super::messages::OPAQUE_DETAIL;
use crate::answer::malformed;
use crate::{Dialect, Error, Event, Opaque};

/// The calls of one choice that have begun, by the server's own index or id.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Vec<Key>);

#[derive(Clone, Debug, PartialEq)]
enum Key {
    Index(u64),
    /// A server that does not number its calls.
    Unnumbered,
}

/// The fields of a message that are read here or say nothing.
const KNOWN: [&str; 14] = [
    "role",
    "content",
    "text",
    "refusal",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "tool_calls",
    "function_call",
    "index",
    "finish_reason",
    "logprobs",
    "audio",
    "obfuscation",
];

/// One delta or message of a choice.
pub(super) struct Pieces<'a> {
    pub(super) choice: u32,
    /// The message is the whole answer.
    pub(super) whole: bool,
    pub(super) message: &'a Value,
}

impl Pieces<'_> {
    pub(super) fn reasoning(&self, events: &mut Vec<Event>) {
        let choice = self.choice;
        let ours: Vec<(String, Opaque)> = self
            .message
            .get("reasoning_details")
            .and_then(Value::as_array)
            .map(|details| details.iter().filter_map(opaque_detail).collect())
            .unwrap_or_default();
        if ours.is_empty() || !self.whole {
            let text = ["reasoning_content", "reasoning"]
                .iter()
                .find_map(|name| self.message.get(name)?.as_str().filter(|text| !text.is_empty()));
            if let Some(text) = text {
                events.push(Event::Reasoning { choice, text: text.to_owned(), opaque: None });
            }
        }
        for (text, opaque) in ours {
            // In a stream the text has come before, piece by piece.
            let text = if self.whole { text } else { String::new() };
            events.push(Event::Reasoning { choice, text, opaque: Some(opaque) });
        }
    }

    pub(super) fn refusal(&self, events: &mut Vec<Event>) {
        if let Some(text) =
            self.message.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty())
        {
            events.push(Event::Refusal { choice: self.choice, text: text.to_owned() });
        }
    }

    pub(super) fn tool_calls(&self, calls: &mut Calls, events: &mut Vec<Event>) -> Result<(), Error> {
        match self.message.get("tool_calls") {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    self.tool_call(item, at, calls, events)?;
                }
            }
            Some(_) => return Err(malformed("a choice has tool calls that are no list")),
        }
        if let Some(call @ Value::Object(_)) = self.message.get("function_call") {
            // The older form of one call.
            let index = calls.0.len().saturating_sub(1);
            let first = calls.0.is_empty();
            if first {
                calls.0.push(Key::Unnumbered);
            }
            self.push_call(index as u32, first, None, call, None, events);
        }
        Ok(())
    }

    fn tool_call(
        &self,
        item: &Value,
        at: usize,
        calls: &mut Calls,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let function = item.get("function").filter(|function| function.is_object());
        let Some(function) = function else {
            // A call of a kind that this dialect has beside functions.
            let value =
                Value::Object(Map::from_iter([("tool_calls".to_owned(), Value::Array(vec![item.clone()]))]));
            events.push(Event::Other { choice: self.choice, dialect: Dialect::OpenAiChat, value });
            return Ok(());
        };
        let text = |value: Option<&Value>| {
            value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let id = text(item.get("id"));
        let named = text(function.get("name")).is_some();
        let number = item.get("index").and_then(Value::as_u64);
        let number = if self.whole { Some(number.unwrap_or(at as u64)) } else { number };
        let found = match number {
            Some(number) => calls.0.iter().position(|key| *key == Key::Index(number)),
            // Without a number, a name begins a call and everything else continues the last one.
            None if named || calls.0.is_empty() => None,
            None => Some(calls.0.len() - 1),
        };
        let first = found.is_none();
        let index = found.unwrap_or(calls.0.len());
        if first {
            calls.0.push(number.map_or(Key::Unnumbered, Key::Index));
        }
        if first && !named {
            return Err(malformed("a tool call begins without the tool's name"));
        }
        let opaque = text(item.pointer("/extra_content/google/thought_signature")).map(|value| Opaque {
            dialect: Dialect::Gemini,
            kind: "thoughtSignature".to_owned(),
            value,
            id: None,
        });
        self.push_call(index as u32, first, id, function, opaque, events);
        Ok(())
    }

    fn push_call(
        &self,
        index: u32,
        first: bool,
        id: Option<String>,
        function: &Value,
        opaque: Option<Opaque>,
        events: &mut Vec<Event>,
    ) {
        let text = |name| function.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let arguments = match function.get("arguments") {
            // Some servers write the object itself.
            Some(value @ Value::Object(_)) => value.to_string(),
            _ => text("arguments"),
        };
        if !first && arguments.is_empty() && opaque.is_none() {
            return;
        }
        events.push(Event::ToolCall {
            choice: self.choice,
            index,
            // Some servers give no id; without one no result could be tied to the call.
            id: first.then(|| id.unwrap_or_else(|| format!("call_{}_{index}", self.choice))),
            name: first.then(|| text("name")),
            arguments,
            opaque,
        });
    }

    /// Fields that only this dialect has.
    pub(super) fn others(&self, events: &mut Vec<Event>) {
        let Some(map) = self.message.as_object() else { return };
        for (name, value) in map {
            let says_nothing = match value {
                Value::Null => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(inner) => inner.is_empty(),
                _ => false,
            };
            if says_nothing || KNOWN.contains(&name.as_str()) {
                continue;
            }
            let value = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
            events.push(Event::Other { choice: self.choice, dialect: Dialect::OpenAiChat, value });
        }
    }
}

/// One of our own values that must come back, with the text that it belongs to.
fn opaque_detail(detail: &Value) -> Option<(String, Opaque)> {
    let text = |name| detail.get(name).and_then(Value::as_str).map(str::to_owned);
    if text("type")? != OPAQUE_DETAIL {
        return None;
    }
    let opaque = Opaque {
        dialect: Dialect::parse(&text("dialect")?)?,
        kind: text("kind")?,
        value: text("value")?,
        id: text("id"),
    };
    Some((text("text").unwrap_or_default(), opaque))
}

/// The text of a delta, of a message, or of a choice of the completions route.
pub(super) fn text(message: &Value) -> Result<String, Error> {
    let mut text = String::new();
    for name in ["content", "text"] {
        match message.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(piece)) => text.push_str(piece),
            Some(Value::Array(parts)) => {
                for part in
                    parts.iter().filter(|part| part.get("type").and_then(Value::as_str) == Some("text"))
                {
                    text.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
                }
            }
            Some(_) => return Err(malformed("a choice has text that is no text")),
        }
    }
    Ok(text)
}

/// Bytes of text that an event brings.
pub(super) fn bytes(event: &Event) -> usize {
    match event {
        Event::Delta { text, .. } | Event::Refusal { text, .. } | Event::Reasoning { text, .. } => text.len(),
        Event::ToolCall { arguments, name, .. } => arguments.len() + name.as_ref().map_or(0, String::len),
        _ => 0,
    }
}
