//! OpenAI's chat completions, also as Bedrock writes them.

use serde_json::{Value, json};

use super::Asked;
use crate::cloud_streams::Frames;
use crate::plays::{AFTER_THOUGHT, ARGUMENTS, Counts, Play, REFUSAL, Reason, Says, THOUGHT};

fn reason(play: &Play) -> &'static str {
    match play.reason {
        Reason::Limit => "length",
        Reason::Calls => "tool_calls",
        Reason::End | Reason::StopText(_) | Reason::Refusal => "stop",
    }
}

fn usage(counts: Counts) -> Value {
    json!({"prompt_tokens": counts.prompt(), "completion_tokens": counts.completion(),
        "total_tokens": counts.total(), "prompt_tokens_details": {"cached_tokens": counts.cached},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning}})
}

/// The log probabilities of tokens; null where nobody asked.
fn logprobs<'a>(play: &Play, tokens: impl Iterator<Item = &'a str>) -> Value {
    if !play.logprobs {
        return Value::Null;
    }
    let token = |token: &str| json!({"token": token, "logprob": -0.25, "bytes": token.as_bytes(), "top_logprobs": []});
    json!({"content": tokens.map(token).collect::<Vec<_>>(), "refusal": null})
}

/// Where a message has what was thought.
fn thought_field(asked: &Asked) -> &'static str {
    if asked.amazon { "reasoning" } else { "reasoning_content" }
}

pub(super) fn whole(asked: &Asked, play: &Play) -> Value {
    let mut message = json!({"role": "assistant", "content": null, "refusal": null});
    match &play.says {
        Says::Text(..) => message["content"] = json!(play.text()),
        Says::Reasoning => {
            message[thought_field(asked)] = json!(THOUGHT);
            message["content"] = json!(AFTER_THOUGHT);
        }
        Says::Calls(name, count) => {
            let calls = ARGUMENTS.iter().take(*count).enumerate().map(|(i, arguments)| {
                json!({"id": format!("call_{i}"), "type": "function",
                    "function": {"name": name, "arguments": arguments}})
            });
            message["tool_calls"] = calls.collect();
        }
        Says::Refusal => message["refusal"] = json!(REFUSAL),
    }
    let logprobs = logprobs(play, play.pieces());
    let choices: Vec<Value> = (0..play.choices)
        .map(|index| json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason(play)}))
        .collect();
    let mut whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked.model,
        "choices": choices, "usage": usage(play.counts)});
    if asked.amazon {
        whole["service_tier"] = json!("default");
    }
    whole
}

pub(super) fn stream(asked: &Asked, play: &Play) -> Frames {
    let chunk = |choices: Value| {
        let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": asked.model, "choices": choices});
        if asked.amazon {
            chunk["service_tier"] = json!("default");
        }
        chunk
    };
    let mut frames = Frames::default();
    let mut send = |delta: &Value, logprobs: &Value, reason: Option<&str>| {
        for index in 0..play.choices {
            let choice =
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason});
            frames.data(&chunk(json!([choice])));
        }
        if reason.is_none() && !delta["content"].as_str().unwrap_or_default().is_empty() {
            frames.has_begun();
        }
    };
    let nothing = Value::Null;
    send(&json!({"role": "assistant", "content": ""}), &nothing, None);
    match &play.says {
        Says::Text(..) => {
            for piece in play.pieces() {
                send(&json!({"content": piece}), &logprobs(play, std::iter::once(piece)), None);
            }
        }
        Says::Reasoning => {
            send(&json!({thought_field(asked): THOUGHT}), &nothing, None);
            send(&json!({"content": AFTER_THOUGHT}), &nothing, None);
        }
        Says::Refusal => send(&json!({"refusal": REFUSAL}), &nothing, None),
        Says::Calls(name, count) => {
            let arguments = || ARGUMENTS.iter().take(*count).enumerate();
            for (i, _) in arguments() {
                let call = json!({"index": i, "id": format!("call_{i}"), "type": "function",
                    "function": {"name": name, "arguments": ""}});
                send(&json!({"tool_calls": [call]}), &nothing, None);
            }
            // They grow in turns.
            for half in 0..2 {
                for (i, arguments) in arguments() {
                    let (first, second) = arguments.split_at(5);
                    let piece = if half == 0 { first } else { second };
                    let call = json!({"index": i, "function": {"arguments": piece}});
                    send(&json!({"tool_calls": [call]}), &nothing, None);
                }
            }
        }
    }
    send(&json!({}), &nothing, Some(reason(play)));
    let mut last = chunk(json!([]));
    last["usage"] = usage(play.counts);
    frames.data(&last);
    frames.push("data: [DONE]\n\n");
    frames
}
