//! Reads the body of `/v1/chat/completions`.

use serde_json::Value;

use super::fields::{Fields, invalid_value, too_many, unsupported, wrong_type};
use super::{Limits, StreamOptions, sampling};
use crate::json::parse_json;
use crate::{Error, Message, Prompt, Request, Role};

/// Reads a chat completion request.
///
/// Text parts of one message are joined by a line feed. `max_tokens` and `max_completion_tokens` mean the same; both
/// at once must be equal. A `seed` below zero keeps its 64 bits. Up to [`Limits::stops`] stop texts are taken.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn parse_chat_request(body: &[u8], limits: &Limits) -> Result<(Request, StreamOptions), Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let model = sampling::model(&mut fields, limits)?;
    let messages = messages(&mut fields, limits)?;
    refuse_unsupported(&mut fields)?;
    let (stream, options) = sampling::stream(&mut fields)?;
    let request = Request {
        model,
        prompt: Prompt::Chat(messages),
        sampling: sampling::sampling(&mut fields, limits)?,
        max_tokens: max_tokens(&mut fields)?,
        stop: sampling::stop(&mut fields, limits)?,
        logprobs: logprobs(&mut fields, limits)?,
        choices: sampling::choices(&mut fields, limits)?,
        stream,
    };
    sampling::bookkeeping(&mut fields)?;
    fields.finish()?;
    Ok((request, options))
}

/// Fields that change the answer and that we do not support. Values that ask for what we do anyway are fine.
fn refuse_unsupported(fields: &mut Fields) -> Result<(), Error> {
    let is_text = |value: &Value| value.as_str() == Some("text");
    // Without tools there is nothing to choose: "none" and "auto" come to the same.
    let no_choice = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
    let never = |_: &Value| false;
    let no_tools = "send the request without tools";
    let only_text = "only text can be generated";
    fields.refuse("tools", is_empty_array, no_tools)?;
    fields.refuse("tool_choice", no_choice, no_tools)?;
    fields.refuse("functions", is_empty_array, no_tools)?;
    fields.refuse("function_call", no_choice, no_tools)?;
    fields.refuse("parallel_tool_calls", Value::is_boolean, no_tools)?;
    fields.refuse(
        "response_format",
        |value| value.as_object().is_some_and(|map| map.len() == 1 && map.get("type").is_some_and(is_text)),
        "only {\"type\": \"text\"} is",
    )?;
    fields.refuse(
        "modalities",
        |value| value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(is_text)),
        only_text,
    )?;
    fields.refuse("audio", never, only_text)?;
    fields.refuse("prediction", never, "leave it out")?;
    fields.refuse("reasoning_effort", never, "leave it out")?;
    fields.refuse("verbosity", |value| value.as_str() == Some("medium"), "only \"medium\" is")?;
    fields.refuse("web_search_options", never, "nothing is searched; leave it out")?;
    fields.refuse("moderation", never, "nothing is moderated; leave it out")
}

fn is_empty_array(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn max_tokens(fields: &mut Fields) -> Result<Option<u32>, Error> {
    let old = fields.count("max_tokens", 1)?;
    let new = fields.count("max_completion_tokens", 1)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        return Err(invalid_value("max_tokens", "differs from `max_completion_tokens`; send one of them"));
    }
    Ok(new.or(old))
}

fn logprobs(fields: &mut Fields, limits: &Limits) -> Result<Option<u8>, Error> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, i64::from(limits.top_logprobs))?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.and_then(|top| u8::try_from(top).ok()).unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(invalid_value("top_logprobs", "needs `logprobs: true`")),
    }
}

fn messages(fields: &mut Fields, limits: &Limits) -> Result<Vec<Message>, Error> {
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
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    if bytes > limits.prompt_bytes {
        return Err(too_many("messages", "bytes of text", limits.prompt_bytes));
    }
    Ok(messages)
}

fn message(mut fields: Fields, limits: &Limits) -> Result<Message, Error> {
    let role_path = fields.path_of("role");
    let role_value = fields.required("role")?;
    let role = match role_value.as_str() {
        Some("system") => Role::System,
        Some("developer") => Role::Developer,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => {
            return Err(unsupported(&role_path, "send the conversation without tool results"));
        }
        Some(_) => return Err(invalid_value(&role_path, "must be system, developer, user or assistant")),
        None => return Err(wrong_type(&role_path, "a string", &role_value)),
    };
    if role == Role::Assistant {
        // Clients send back whole messages that they received, with these fields empty.
        let no_tools = "send the conversation without tool calls";
        fields.refuse("tool_calls", is_empty_array, no_tools)?;
        fields.refuse("function_call", |_| false, no_tools)?;
        fields.refuse("annotations", is_empty_array, "leave it out")?;
        fields.refuse("audio", |_| false, "only text can be read")?;
        fields.refuse("refusal", |_| false, "send its text as content")?;
    }
    let name_path = fields.path_of("name");
    let name = fields.string("name")?;
    if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > limits.name_bytes) {
        return Err(invalid_value(&name_path, &format!("must have 1 to {} bytes", limits.name_bytes)));
    }
    let path = fields.path_of("content");
    let content = content(fields.required("content")?, &path)?;
    fields.finish()?;
    Ok(Message { role, content, name })
}

/// A message's text: a string, or an array of text parts.
fn content(value: Value, path: &str) -> Result<String, Error> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) if parts.is_empty() => {
            return Err(invalid_value(path, "must hold at least one part"));
        }
        Value::Array(parts) => parts,
        other => return Err(wrong_type(path, "a string or an array of text parts", &other)),
    };
    let texts: Vec<String> = parts
        .into_iter()
        .enumerate()
        .map(|(i, part)| text_part(Fields::of(part, &format!("{path}[{i}]"))?))
        .collect::<Result<_, Error>>()?;
    Ok(texts.join("\n"))
}

fn text_part(mut fields: Fields) -> Result<String, Error> {
    let kind_path = fields.path_of("type");
    let kind = fields.required("type")?;
    match kind.as_str() {
        Some("text") => {}
        Some("image_url" | "input_audio" | "file" | "refusal") => {
            return Err(unsupported(&kind_path, "only text parts are"));
        }
        Some(_) => return Err(invalid_value(&kind_path, "must be \"text\"")),
        None => return Err(wrong_type(&kind_path, "a string", &kind)),
    }
    let path = fields.path_of("text");
    let text = match fields.required("text")? {
        Value::String(text) => text,
        other => return Err(wrong_type(&path, "a string", &other)),
    };
    fields.finish()?;
    Ok(text)
}
