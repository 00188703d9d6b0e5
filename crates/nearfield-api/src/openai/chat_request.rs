//! Reads the body of `/v1/chat/completions`.

use serde_json::Value;

use super::{Limits, StreamOptions, messages, sampling, tools};
use crate::fields::{Fields, invalid_value};
use crate::json::parse_json;
use crate::{Dialect, Error, Prompt, ReasoningOptions, Request};

/// Reads a chat completion request.
///
/// `max_tokens` and `max_completion_tokens` mean the same; both at once must be equal. A `seed` below zero keeps its
/// 64 bits. Up to [`Limits::stops`] stop texts are taken. Fields that are not known stay in [`Request::extra`]: a
/// backend of the same dialect gets them, every other refuses them by name.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn parse_chat_request(body: &[u8], limits: &Limits) -> Result<(Request, StreamOptions), Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let model = sampling::model(&mut fields, limits)?;
    let messages = messages::decode(&mut fields, limits)?;
    drop_defaults(&mut fields);
    let (stream, options) = sampling::stream(&mut fields)?;
    let request = Request {
        tools: tools::decode(&mut fields)?,
        tool_choice: tools::decode_choice(&mut fields)?,
        parallel_tools: fields.bool("parallel_tool_calls")?,
        format: tools::decode_format(&mut fields)?,
        reasoning: ReasoningOptions {
            effort: fields.string("reasoning_effort")?,
            ..ReasoningOptions::default()
        },
        sampling: sampling::sampling(&mut fields, limits)?,
        max_tokens: max_tokens(&mut fields)?,
        stop: sampling::stop(&mut fields, limits)?,
        logprobs: logprobs(&mut fields, limits)?,
        choices: sampling::choices(&mut fields, limits)?,
        stream,
        labels: sampling::labels(&mut fields)?,
        origin: Some(Dialect::OpenAiChat),
        extra: fields.rest(),
        ..Request::new(model, Prompt::Chat(messages))
    };
    Ok((request, options))
}

/// Takes the values that ask for what everybody does anyway.
fn drop_defaults(fields: &mut Fields) {
    let is_text = |value: &Value| value.as_str() == Some("text");
    fields.drop_if("functions", is_empty_array);
    fields.drop_if("function_call", |value| matches!(value.as_str(), Some("none" | "auto")));
    fields.drop_if("modalities", |value| {
        value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(is_text))
    });
    fields.drop_if("verbosity", |value| value.as_str() == Some("medium"));
    fields.drop_if("service_tier", |value| matches!(value.as_str(), Some("auto" | "default")));
}

pub(super) fn is_empty_array(value: &Value) -> bool {
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
