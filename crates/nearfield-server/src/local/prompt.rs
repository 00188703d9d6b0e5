//! From a request's prompt to the model's tokens.

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_api::{Content, Error, ErrorKind, Message, Part, Prompt, Role, ToolCall, ToolResult};
use nearfield_model::{ChatMessage, ChatOptions, Text};
use serde_json::{Map, Value, json};

use super::errors::text_error;
use super::models::Lease;
use super::tools::Asked;

/// Prompts longer than this are encoded beside the threads that serve others.
const LONG_PROMPT: usize = 32 << 10;

/// The tokens of a prompt.
pub(super) async fn encode(lease: &Lease, prompt: &Prompt, asked: Asked) -> Result<Vec<u32>, Error> {
    if length(prompt) <= LONG_PROMPT {
        return tokens(lease.text(), prompt, asked);
    }
    let (text, prompt): (Arc<Text>, Prompt) = (lease.shared_text(), prompt.clone());
    tokio::task::spawn_blocking(move || tokens(&text, &prompt, asked))
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the prompt could not be encoded")))
}

fn tokens(text: &Text, prompt: &Prompt, asked: Asked) -> Result<Vec<u32>, Error> {
    match prompt {
        Prompt::Chat(messages) if messages.is_empty() => {
            return Err(Error::invalid("messages", "`messages` must hold at least one message."));
        }
        Prompt::Chat(messages) => {
            let options = ChatOptions {
                tools: asked.tools,
                template_options: asked.variables,
                ..ChatOptions::default()
            };
            text.encode_chat(&chat_messages(messages), &options)
        }
        Prompt::Text { text: before, suffix } => text.encode_completion(before, suffix.as_deref()),
        Prompt::Tokens(tokens) => return Ok(tokens.clone()),
    }
    .map_err(|error| text_error(&error, prompt))
}

/// The conversation as templates take it: each result of a tool is a message of its own.
fn chat_messages(messages: &[Message]) -> Vec<ChatMessage> {
    let mut names = HashMap::new();
    let mut out = Vec::with_capacity(messages.len());
    for message in messages {
        for part in &message.content {
            match &part.content {
                Content::ToolCall(call) => {
                    names.insert(call.id.as_str(), call.name.as_str());
                }
                Content::ToolResult(result) => {
                    out.push(tool_result(result, names.get(result.call_id.as_str())));
                }
                _ => {}
            }
        }
        let results = |part: &Part| matches!(part.content, Content::ToolResult(_));
        if message.content.is_empty() || !message.content.iter().all(results) {
            out.push(chat_message(message));
        }
    }
    out
}

fn tool_result(result: &ToolResult, name: Option<&&str>) -> ChatMessage {
    let mut fields = Map::new();
    fields.insert("tool_call_id".to_owned(), json!(result.call_id));
    let texts: Vec<&str> = result.content.iter().filter_map(Part::as_text).collect();
    let name = result.name.clone().or_else(|| name.map(|name| (*name).to_owned()));
    ChatMessage { role: Role::Tool.as_str().to_owned(), content: texts.join("\n"), name, fields }
}

fn chat_message(message: &Message) -> ChatMessage {
    let role = match message.role {
        // The newer spelling of the same; templates know only the older one.
        Role::Developer => Role::System,
        role => role,
    };
    let (mut calls, mut thoughts) = (Vec::new(), String::new());
    for part in &message.content {
        match &part.content {
            Content::ToolCall(call) => calls.push(tool_call(call)),
            Content::Reasoning(reasoning) => thoughts.push_str(&reasoning.text),
            _ => {}
        }
    }
    let mut fields = Map::new();
    if !calls.is_empty() {
        fields.insert("tool_calls".to_owned(), calls.into());
    }
    if !thoughts.is_empty() {
        fields.insert("reasoning_content".to_owned(), thoughts.into());
    }
    ChatMessage {
        role: role.as_str().to_owned(),
        content: message.text().into_owned(),
        name: message.name.clone(),
        fields,
    }
}

/// A call as templates take it: its arguments are an object. What is no JSON stays the text it is.
fn tool_call(call: &ToolCall) -> Value {
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| Value::from(arguments));
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

fn length(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Tokens(_) => 0,
        prompt => prompt.bytes(),
    }
}
