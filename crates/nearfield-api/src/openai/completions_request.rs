//! Reads the body of `/v1/completions`.

use serde_json::Value;

use super::{Limits, StreamOptions, sampling};
use crate::fields::{Fields, invalid_value, out_of_range, too_many, unsupported, wrong_type};
use crate::json::parse_json;
use crate::{Dialect, Error, Prompt, Request};

/// What `max_tokens` is when a completions request does not say, in this dialect.
pub const COMPLETIONS_DEFAULT_MAX_TOKENS: u32 = 16;

/// Reads a completions request.
///
/// The prompt is text, token ids, or an array that holds exactly one of these. Without `max_tokens` the dialect's
/// own default holds: [`COMPLETIONS_DEFAULT_MAX_TOKENS`].
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn parse_completions_request(body: &[u8], limits: &Limits) -> Result<(Request, StreamOptions), Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let model = sampling::model(&mut fields, limits)?;
    let prompt = prompt(&mut fields, limits)?;
    let choices = sampling::choices(&mut fields, limits)?;
    fields.refuse("echo", |value| value.as_bool() == Some(false), "the answer holds new text only")?;
    // As many drafts as answers leaves nothing to choose between.
    fields.refuse(
        "best_of",
        |value| value.as_u64().is_some_and(|best_of| best_of == 1 || best_of == u64::from(choices)),
        "only 1 or the value of `n` is",
    )?;
    let (stream, options) = sampling::stream(&mut fields)?;
    fields.drop_if("service_tier", |value| matches!(value.as_str(), Some("auto" | "default")));
    let request = Request {
        sampling: sampling::sampling(&mut fields, limits)?,
        max_tokens: Some(fields.count("max_tokens", 1)?.unwrap_or(COMPLETIONS_DEFAULT_MAX_TOKENS)),
        stop: sampling::stop(&mut fields, limits)?,
        logprobs: fields
            .integer("logprobs", 0, i64::from(limits.top_logprobs))?
            .and_then(|top| u8::try_from(top).ok()),
        choices,
        stream,
        labels: sampling::labels(&mut fields)?,
        origin: Some(Dialect::OpenAiChat),
        extra: fields.rest(),
        ..Request::new(model, prompt)
    };
    Ok((request, options))
}

fn prompt(fields: &mut Fields, limits: &Limits) -> Result<Prompt, Error> {
    let prompt = one_prompt(fields.required("prompt")?, limits)?;
    let suffix = fields.string("suffix")?;
    let prompt = match (prompt, suffix) {
        (Prompt::Text { text, .. }, suffix) => Prompt::Text { text, suffix },
        (prompt, None) => prompt,
        (_, Some(_)) => return Err(invalid_value("suffix", "needs a prompt of text, not of token ids")),
    };
    if let Prompt::Text { text, suffix } = &prompt
        && text.len() + suffix.as_ref().map_or(0, String::len) > limits.prompt_bytes
    {
        return Err(too_many("prompt", "bytes of text", limits.prompt_bytes));
    }
    Ok(prompt)
}

fn one_prompt(value: Value, limits: &Limits) -> Result<Prompt, Error> {
    let expected = "a string, an array of token ids, or an array of one of these";
    let mut items = match value {
        Value::String(text) => return Ok(Prompt::Text { text, suffix: None }),
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", expected, &other)),
    };
    match items.first() {
        None => Err(invalid_value("prompt", "must not be empty")),
        Some(Value::Number(_)) => tokens(&items, limits),
        Some(Value::String(_) | Value::Array(_)) if items.len() > 1 => {
            Err(unsupported("prompt", "send one request for each prompt of the array"))
        }
        Some(_) => match items.swap_remove(0) {
            Value::String(text) => Ok(Prompt::Text { text, suffix: None }),
            Value::Array(inner) if !inner.is_empty() => tokens(&inner, limits),
            Value::Array(_) => Err(invalid_value("prompt", "must not be empty")),
            other => Err(wrong_type("prompt[0]", expected, &other)),
        },
    }
}

fn tokens(items: &[Value], limits: &Limits) -> Result<Prompt, Error> {
    if items.len() > limits.prompt_tokens {
        return Err(too_many("prompt", "tokens", limits.prompt_tokens));
    }
    let tokens = items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            let path = format!("prompt[{i}]");
            if !item.is_u64() && !item.is_i64() {
                return Err(wrong_type(&path, "a token id", item));
            }
            item.as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| out_of_range(&path, "a token id", item))
        })
        .collect::<Result<_, Error>>()?;
    Ok(Prompt::Tokens(tokens))
}
