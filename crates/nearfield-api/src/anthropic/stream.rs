//! Reads a streamed answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::blocks::{REDACTED, SIGNATURE, opaque};
use super::{reply, usage};
use crate::answer::{Progress, malformed, tree};
use crate::openai::decode_stream_error;
use crate::sse::SseEvent;
use crate::{AnswerDecoder, Dialect, Error, Event, Request};

/// Turns the events of one stream into ours.
#[derive(Debug)]
pub struct StreamDecoder {
    progress: Progress,
    /// Blocks that have begun and not ended, by index.
    blocks: BTreeMap<u64, Block>,
    /// The counts so far: later ones replace earlier ones, field by field.
    usage: Map<String, Value>,
}

#[derive(Debug)]
enum Block {
    Text,
    Thinking { signature: String },
    Tool { index: u32, empty: bool },
    Other { value: Value, input: String },
}

impl StreamDecoder {
    /// A decoder for the answer to `request`, which was sent for the backend's model `upstream_model`.
    pub fn new(request: &Request, upstream_model: &str) -> Self {
        Self { progress: Progress::new(request, upstream_model), blocks: BTreeMap::new(), usage: Map::new() }
    }

    fn begin(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let index = index(tree)?;
        let block = tree.get("content_block").ok_or_else(|| malformed("a block has no content"))?;
        let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
        let state = match text("type") {
            "text" => {
                self.progress.text(0, text("text"), events)?;
                Block::Text
            }
            "thinking" => {
                self.reasoning(text("thinking"), None, events)?;
                Block::Thinking { signature: text("signature").to_owned() }
            }
            REDACTED => {
                self.reasoning("", Some((REDACTED, text("data").to_owned())), events)?;
                Block::Text
            }
            "tool_use" => {
                let input =
                    block.get("input").filter(|input| input.as_object().is_some_and(|map| !map.is_empty()));
                let arguments = input.map(Value::to_string).unwrap_or_default();
                let empty = arguments.is_empty();
                let index = self.progress.call(text("id"), text("name"), arguments, events)?;
                Block::Tool { index, empty }
            }
            _ => Block::Other { value: block.clone(), input: String::new() },
        };
        self.blocks.insert(index, state);
        Ok(())
    }

    fn delta(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let index = index(tree)?;
        let delta = tree.get("delta").ok_or_else(|| malformed("a delta is empty"))?;
        let text = |name: &str| delta.get(name).and_then(Value::as_str).unwrap_or_default();
        let block = self.blocks.get_mut(&index).ok_or_else(|| malformed("a delta belongs to no block"))?;
        match (text("type"), block) {
            ("text_delta", Block::Text) => self.progress.text(0, text("text"), events),
            ("thinking_delta", _) => self.reasoning(text("thinking"), None, events),
            ("signature_delta", Block::Thinking { signature }) => {
                signature.push_str(text("signature"));
                Ok(())
            }
            ("input_json_delta", Block::Tool { index, empty }) => {
                let arguments = text("partial_json");
                if arguments.is_empty() {
                    return Ok(());
                }
                *empty = false;
                let event = Event::ToolCall {
                    choice: 0,
                    index: *index,
                    id: None,
                    name: None,
                    arguments: arguments.to_owned(),
                    opaque: None,
                };
                self.progress.event(event, events)
            }
            ("input_json_delta", Block::Other { input, .. }) => {
                input.push_str(text("partial_json"));
                Ok(())
            }
            ("text_delta" | "signature_delta" | "input_json_delta", _) => {
                Err(malformed("a delta does not fit its block"))
            }
            // Citations and kinds that are not known yet.
            (_, Block::Other { .. }) => {
                let value = json!({"type": "content_block_delta", "index": index, "delta": delta});
                self.other(value, events)
            }
            _ => self.other(delta.clone(), events),
        }
    }

    fn end(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        match self.blocks.remove(&index(tree)?) {
            Some(Block::Thinking { signature }) if !signature.is_empty() => {
                self.reasoning("", Some((SIGNATURE, signature)), events)
            }
            Some(Block::Tool { index, empty: true }) => {
                // No arguments are an empty object: elsewhere the text must be JSON.
                let event = Event::ToolCall {
                    choice: 0,
                    index,
                    id: None,
                    name: None,
                    arguments: "{}".to_owned(),
                    opaque: None,
                };
                self.progress.event(event, events)
            }
            Some(Block::Other { mut value, input }) => {
                if let Ok(input) = serde_json::from_str::<Value>(&input)
                    && let Some(map) = value.as_object_mut()
                {
                    map.insert("input".to_owned(), input);
                }
                self.other(value, events)
            }
            _ => Ok(()),
        }
    }

    fn reasoning(
        &mut self,
        text: &str,
        value: Option<(&str, String)>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let opaque = value.map(|(kind, value)| opaque(kind, value));
        self.progress.event(Event::Reasoning { choice: 0, text: text.to_owned(), opaque }, events)
    }

    fn other(&mut self, value: Value, events: &mut Vec<Event>) -> Result<(), Error> {
        self.progress.event(Event::Other { choice: 0, dialect: Dialect::Anthropic, value }, events)
    }

    fn count(&mut self, counts: Option<&Value>) {
        for (name, value) in counts.and_then(Value::as_object).into_iter().flatten() {
            if !value.is_null() {
                self.usage.insert(name.clone(), value.clone());
            }
        }
        self.progress.usage = usage::decode(&Value::Object(self.usage.clone()));
    }

    /// The end of the message: its reason and its final counts.
    fn message_delta(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        self.count(tree.get("usage"));
        match tree.pointer("/delta/stop_reason").and_then(Value::as_str) {
            Some(reason) if !self.progress.is_finished(0) => {
                if !self.blocks.is_empty() {
                    return Err(malformed("the message ends inside a block"));
                }
                self.progress.end(0, reply::stop_reason(reason)?, events)
            }
            _ => Ok(()),
        }
    }
}

impl AnswerDecoder for StreamDecoder {
    fn push(&mut self, frame: &SseEvent, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.progress.is_done() || frame.data.trim().is_empty() {
            return Ok(());
        }
        let tree: Value = serde_json::from_str(&frame.data).map_err(|_| malformed("an event is not JSON"))?;
        match tree.get("type").and_then(Value::as_str).or(frame.event.as_deref()).unwrap_or_default() {
            "message_start" => {
                let message = tree.get("message").unwrap_or(&Value::Null);
                self.progress.start(message.get("model").and_then(Value::as_str), events);
                self.count(message.get("usage"));
                Ok(())
            }
            "content_block_start" => self.begin(&tree, events),
            "content_block_delta" => self.delta(&tree, events),
            "content_block_stop" => self.end(&tree, events),
            "message_delta" => self.message_delta(&tree, events),
            "message_stop" => self.progress.complete(events),
            "error" => Err(decode_stream_error(&tree)),
            // `ping`, and events of later versions, which the API's rules say to skip.
            _ => Ok(()),
        }
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.progress.complete(events)
    }

    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        reply::message(&tree(body)?, &mut self.progress, events)
    }

    fn is_done(&self) -> bool {
        self.progress.is_done()
    }

    fn has_token(&self) -> bool {
        self.progress.has_token()
    }
}

fn index(tree: &Value) -> Result<u64, Error> {
    tree.get("index").and_then(Value::as_u64).ok_or_else(|| malformed("a block has no index"))
}
