//! What an answer holds beside its text, as fields of a message or delta.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::messages::opaque_detail;
use super::reply::disorder;
use crate::{Dialect, Error, Event, Opaque};

/// What one choice holds beside its text.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnswerExtras {
    refusal: String,
    reasoning: String,
    /// Reasoning since the last value that must come back.
    open: String,
    details: Vec<Value>,
    calls: Vec<Call>,
    others: Map<String, Value>,
    foreign: Vec<Value>,
}

#[derive(Clone, Debug, Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
    opaque: Option<Opaque>,
}

impl AnswerExtras {
    /// Takes an event that is none of text.
    pub(super) fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Refusal { text, .. } => self.refusal.push_str(&text),
            Event::Reasoning { text, opaque, .. } => {
                self.reasoning.push_str(&text);
                self.open.push_str(&text);
                if let Some(opaque) = opaque {
                    self.details.push(opaque_detail(&std::mem::take(&mut self.open), &opaque));
                }
            }
            Event::ToolCall { index, id, name, arguments, opaque, .. } => {
                let index = index as usize;
                if index == self.calls.len() {
                    self.calls.push(Call::default());
                }
                let call = self.calls.get_mut(index).ok_or_else(|| disorder("a tool call out of order"))?;
                call.id.push_str(&id.unwrap_or_default());
                call.name.push_str(&name.unwrap_or_default());
                call.arguments.push_str(&arguments);
                call.opaque = opaque.or(call.opaque.take());
            }
            Event::Other { dialect, value, .. } => self.other(dialect, value),
            _ => {}
        }
        Ok(())
    }

    fn other(&mut self, dialect: Dialect, value: Value) {
        match (dialect, value) {
            (Dialect::OpenAiChat, Value::Object(map)) => {
                for (name, value) in map {
                    match (self.others.get_mut(&name), value) {
                        (Some(Value::Array(there)), Value::Array(more)) => there.extend(more),
                        (_, value) => {
                            self.others.insert(name, value);
                        }
                    }
                }
            }
            (dialect, value) => self.foreign.push(json!({"dialect": dialect.as_str(), "value": value})),
        }
    }

    /// Whether there is nothing but text.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.refusal.is_empty()
    }

    fn fields(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let refusal = Some(self.refusal.as_str()).filter(|text| !text.is_empty());
        map.insert("refusal".to_owned(), refusal.map_or(Value::Null, Value::from));
        if !self.reasoning.is_empty() {
            map.insert("reasoning_content".to_owned(), self.reasoning.as_str().into());
        }
        if !self.details.is_empty() {
            map.insert("reasoning_details".to_owned(), self.details.clone().into());
        }
        if !self.calls.is_empty() {
            let calls = self.calls.iter().map(|call| {
                let mut value = json!({"id": call.id, "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments}});
                put_signature(&mut value, call.opaque.as_ref());
                value
            });
            map.insert("tool_calls".to_owned(), calls.collect());
        }
        for (name, value) in &self.others {
            if !map.contains_key(name) {
                map.insert(name.clone(), value.clone());
            }
        }
        if !self.foreign.is_empty() {
            map.insert("nearfield_parts".to_owned(), self.foreign.clone().into());
        }
        map
    }
}

impl Serialize for AnswerExtras {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields().serialize(serializer)
    }
}

/// The fields of a delta for an event that is none of text. `open` gathers reasoning until a value comes that must
/// come back with it.
pub(super) fn delta(event: &Event, open: &mut String) -> Map<String, Value> {
    let mut map = Map::new();
    match event {
        Event::Refusal { text, .. } => {
            map.insert("refusal".to_owned(), text.as_str().into());
        }
        Event::Reasoning { text, opaque, .. } => {
            open.push_str(text);
            if !text.is_empty() {
                map.insert("reasoning_content".to_owned(), text.as_str().into());
            }
            if let Some(opaque) = opaque {
                let detail = opaque_detail(&std::mem::take(open), opaque);
                map.insert("reasoning_details".to_owned(), json!([detail]));
            }
        }
        Event::ToolCall { index, id, name, arguments, opaque, .. } => {
            let mut call = json!({"index": index});
            if let Some(id) = id {
                call["id"] = json!(id);
                call["type"] = json!("function");
            }
            call["function"] = match name {
                Some(name) => json!({"name": name, "arguments": arguments}),
                None => json!({"arguments": arguments}),
            };
            put_signature(&mut call, opaque.as_ref());
            map.insert("tool_calls".to_owned(), json!([call]));
        }
        Event::Other { dialect: Dialect::OpenAiChat, value: Value::Object(fields), .. } => {
            map.extend(fields.clone());
        }
        Event::Other { dialect, value, .. } => {
            map.insert("nearfield_parts".to_owned(), json!([{"dialect": dialect.as_str(), "value": value}]));
        }
        _ => {}
    }
    map
}

fn put_signature(call: &mut Value, opaque: Option<&Opaque>) {
    if let Some(opaque) = opaque.filter(|opaque| opaque.dialect == Dialect::Gemini) {
        call["extra_content"] = json!({"google": {"thought_signature": opaque.value}});
    }
}
