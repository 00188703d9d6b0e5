//! Good answers in the dialects of all providers, as their own servers write them.
//!
//! What is answered follows from the request, which must be well-formed: see [`Play`].

use nearfield_api::openai::Limits;
use nearfield_api::{Content, Dialect, Message, OutputFormat, Prompt, Request, Tool};
use serde_json::{Value, json};

use crate::cloud_server::{CloudRequest, Script};
use crate::cloud_streams::{broken, stream};

/// What the fake answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Play {
    /// Text in two pieces.
    Text(&'static str, &'static str),
    /// Reasoning that must come back, then text.
    Reasoning,
    /// Two calls of the first tool.
    Calls(String),
    /// A refusal.
    Refusal,
}

/// What is thought.
pub const THOUGHT: &str = "Let me think.";
/// What must come back with it.
pub const SIGNATURE: &str = "c2lnbmF0dXJl";
/// The arguments of the two calls.
pub const ARGUMENTS: [&str; 2] = ["{\"city\":\"Paris\"}", "{\"city\":\"Rome\"}"];
/// The token that the fake hands out for a signed statement.
pub const ACCESS_TOKEN: &str = "ya29.token-of-the-fake";

/// Whose answer is wanted.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) dialect: Dialect,
    pub(crate) model: String,
    /// Whether it is OpenAI's dialect as Bedrock writes it.
    pub(crate) amazon: bool,
}

/// Where a chat's message has what was thought.
pub(crate) fn thought_field(asked: &Asked) -> &'static str {
    if asked.amazon { "reasoning" } else { "reasoning_content" }
}

/// Whose answer an address asks for, and whether as a stream.
fn address(target: &str) -> Option<(Asked, bool)> {
    let path = target.split('?').next().unwrap_or_default();
    let decoded = |name: &str| name.replace("%3A", ":").replace("%2F", "/");
    let asked = |dialect, model| Asked { dialect, model, amazon: path.starts_with("/openai/") };
    for (end, dialect) in [
        ("/chat/completions", Dialect::OpenAiChat),
        ("/responses", Dialect::OpenAiResponses),
        ("/messages", Dialect::Anthropic),
    ] {
        if path.ends_with(end) {
            return Some((asked(dialect, String::new()), false));
        }
    }
    if let Some((_, model)) = path.rsplit_once("/models/") {
        let (model, action) = model.split_once(':')?;
        return Some((asked(Dialect::Gemini, decoded(model)), action == "streamGenerateContent"));
    }
    let (model, action) = path.strip_prefix("/model/")?.split_once('/')?;
    Some((asked(Dialect::Bedrock, decoded(model)), action == "converse-stream"))
}

/// The answer to a request in one of the dialects; `None` for any other request.
pub fn answer(request: &CloudRequest) -> Option<Script> {
    if request.target == "/token" {
        return Some(Script::json(
            200,
            &json!({"access_token": ACCESS_TOKEN, "expires_in": 3600, "token_type": "Bearer"}),
        ));
    }
    let (mut asked, streams) = address(&request.target)?;
    let dialect = asked.dialect;
    let decoded = match dialect.decode_request(&request.body, &asked.model, streams, &Limits::default()) {
        Ok(decoded) => decoded,
        Err(error) => return Some(refusal(dialect, 400, &error.message)),
    };
    if decoded.model.contains("no-such-model") {
        return Some(refusal(dialect, if dialect == Dialect::Bedrock { 400 } else { 404 }, "no such model"));
    }
    let breaks = decoded.model.contains("breaks");
    if decoded.model.contains("overloaded") || breaks && !decoded.stream {
        return Some(refusal(dialect, if dialect == Dialect::Anthropic { 529 } else { 503 }, "overloaded"));
    }
    if breaks {
        return Some(broken(dialect).script());
    }
    let play = play(&decoded);
    asked.model = decoded.model;
    Some(if decoded.stream { stream(&asked, &play) } else { Script::json(200, &whole(&asked, &play)) })
}

/// An error as the provider writes it.
fn refusal(dialect: Dialect, status: u16, message: &str) -> Script {
    let body = match dialect {
        Dialect::OpenAiChat | Dialect::OpenAiResponses => {
            json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": null}})
        }
        Dialect::Anthropic => {
            let kind = if status == 529 { "overloaded_error" } else { "not_found_error" };
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
        }
        Dialect::Gemini => json!({"error": {"code": status, "message": message, "status": "NOT_FOUND"}}),
        Dialect::Bedrock => json!({"message": message}),
    };
    let kind = if status == 503 { "ServiceUnavailableException" } else { "ValidationException" };
    let headers = [("Content-Type", "application/json"), ("x-amzn-errortype", kind)];
    Script::answer(status, &headers, body.to_string())
}

fn play(request: &Request) -> Play {
    let Prompt::Chat(messages) = &request.prompt else { return Play::Text("Hello", ", world") };
    let holds = |message: &Message, wanted: fn(&Content) -> bool| {
        message.content.iter().any(|part| wanted(&part.content))
    };
    let last = messages.last();
    if request.model.contains("refuses") {
        return Play::Refusal;
    }
    if last.is_some_and(|message| holds(message, |content| matches!(content, Content::ToolResult(_)))) {
        return Play::Text("It is", " sunny");
    }
    if let Some(name) = request.tools.iter().find_map(|tool| match tool {
        Tool::Function(function) => Some(function.name.clone()),
        _ => None,
    }) {
        return Play::Calls(name);
    }
    if last.is_some_and(|message| holds(message, |content| matches!(content, Content::Image(_)))) {
        return Play::Text("A", " cat");
    }
    if matches!(request.format, Some(OutputFormat::JsonSchema(_))) {
        return Play::Text("{\"city\":", "\"Paris\"}");
    }
    if !request.reasoning.is_unset() || request.extra.contains_key("additionalModelRequestFields") {
        return Play::Reasoning;
    }
    Play::Text("Hello", ", world")
}

/// An answer in one body.
fn whole(asked: &Asked, play: &Play) -> Value {
    let model = asked.model.as_str();
    match asked.dialect {
        Dialect::OpenAiChat => whole_chat(asked, play),
        Dialect::OpenAiResponses => response(model, "completed", output(play)),
        Dialect::Anthropic => {
            let reason = anthropic_reason(play);
            json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model,
                "content": anthropic_blocks(play), "stop_reason": reason, "stop_sequence": null,
                "usage": {"input_tokens": 7, "output_tokens": 2, "cache_read_input_tokens": 0,
                    "cache_creation_input_tokens": 0}})
        }
        Dialect::Gemini => gemini_frame(model, gemini_parts(play), Some(gemini_reason(play))),
        Dialect::Bedrock => {
            json!({"output": {"message": {"role": "assistant", "content": bedrock_blocks(play)}},
            "stopReason": bedrock_reason(play), "metrics": {"latencyMs": 1},
            "usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}})
        }
    }
}

fn whole_chat(asked: &Asked, play: &Play) -> Value {
    let mut message = json!({"role": "assistant", "content": null, "refusal": null});
    let mut reason = "stop";
    match play {
        Play::Text(one, two) => message["content"] = json!(format!("{one}{two}")),
        Play::Reasoning => {
            message[thought_field(asked)] = json!(THOUGHT);
            message["content"] = json!("Hello");
        }
        Play::Calls(name) => {
            reason = "tool_calls";
            let calls = ARGUMENTS.iter().enumerate().map(|(i, arguments)| {
                json!({"id": format!("call_{i}"), "type": "function",
                    "function": {"name": name, "arguments": arguments}})
            });
            message["tool_calls"] = calls.collect();
        }
        Play::Refusal => message["refusal"] = json!("No."),
    }
    let mut whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}});
    if asked.amazon {
        whole["service_tier"] = json!("default");
    }
    whole
}

pub(crate) fn anthropic_reason(play: &Play) -> &'static str {
    match play {
        Play::Calls(_) => "tool_use",
        Play::Refusal => "refusal",
        _ => "end_turn",
    }
}

pub(crate) fn anthropic_blocks(play: &Play) -> Vec<Value> {
    let text = |text: String| json!({"type": "text", "text": text});
    match play {
        Play::Text(one, two) => vec![text(format!("{one}{two}"))],
        Play::Reasoning => {
            vec![
                json!({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}),
                text("Hello".into()),
            ]
        }
        Play::Refusal => vec![text("No.".into())],
        Play::Calls(name) => (0..2)
            .map(|i| {
                let input: Value = serde_json::from_str(ARGUMENTS[i]).unwrap_or_default();
                json!({"type": "tool_use", "id": format!("toolu_{i}"), "name": name, "input": input})
            })
            .collect(),
    }
}

pub(crate) fn gemini_reason(play: &Play) -> &'static str {
    if *play == Play::Refusal { "SAFETY" } else { "STOP" }
}

pub(crate) fn gemini_parts(play: &Play) -> Vec<Value> {
    match play {
        Play::Text(one, two) => vec![json!({"text": one}), json!({"text": two})],
        Play::Reasoning => vec![
            json!({"text": THOUGHT, "thought": true}),
            json!({"text": "Hello", "thoughtSignature": SIGNATURE}),
        ],
        Play::Refusal => Vec::new(),
        Play::Calls(name) => (0..2)
            .map(|i| {
                let args: Value = serde_json::from_str(ARGUMENTS[i]).unwrap_or_default();
                let mut part = json!({"functionCall": {"name": name, "args": args}});
                if i == 0 {
                    part["thoughtSignature"] = json!(SIGNATURE);
                }
                part
            })
            .collect(),
    }
}

pub(crate) fn gemini_frame(model: &str, parts: Vec<Value>, reason: Option<&str>) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let Some(reason) = reason {
        candidate["finishReason"] = json!(reason);
    }
    json!({"candidates": [candidate], "modelVersion": model, "responseId": "r1",
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}})
}

pub(crate) fn bedrock_reason(play: &Play) -> &'static str {
    match play {
        Play::Calls(_) => "tool_use",
        Play::Refusal => "guardrail_intervened",
        _ => "end_turn",
    }
}

pub(crate) fn bedrock_blocks(play: &Play) -> Vec<Value> {
    match play {
        Play::Text(one, two) => vec![json!({"text": format!("{one}{two}")})],
        Play::Reasoning => vec![
            json!({"reasoningContent": {"reasoningText": {"text": THOUGHT, "signature": SIGNATURE}}}),
            json!({"text": "Hello"}),
        ],
        Play::Refusal => vec![json!({"text": "No."})],
        Play::Calls(name) => (0..2)
            .map(|i| {
                let input: Value = serde_json::from_str(ARGUMENTS[i]).unwrap_or_default();
                json!({"toolUse": {"toolUseId": format!("tooluse_{i}"), "name": name, "input": input}})
            })
            .collect(),
    }
}

pub(crate) fn output(play: &Play) -> Vec<Value> {
    let says = |parts: Value| {
        json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": parts})
    };
    let text = |text: &str| json!([{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]);
    match play {
        Play::Text(one, two) => vec![says(text(&format!("{one}{two}")))],
        Play::Reasoning => vec![
            json!({"type": "reasoning", "id": "rs_1", "encrypted_content": SIGNATURE,
                "summary": [{"type": "summary_text", "text": THOUGHT}]}),
            says(text("Hello")),
        ],
        Play::Refusal => vec![says(json!([{"type": "refusal", "refusal": "No."}]))],
        Play::Calls(name) => (0..2)
            .map(|i| {
                json!({"type": "function_call", "id": format!("fc_{i}"), "call_id": format!("call_{i}"),
                    "name": name, "arguments": ARGUMENTS[i], "status": "completed"})
            })
            .collect(),
    }
}

pub(crate) fn response(model: &str, status: &str, output: Vec<Value>) -> Value {
    let usage = json!({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9});
    json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": model, "output": output,
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "error": null, "incomplete_details": null,
        "instructions": null, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        "usage": if status == "completed" { usage } else { Value::Null }})
}
