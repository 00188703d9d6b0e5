//! Good answers in the dialects of all providers, as their own servers write them.
//!
//! What is answered follows from the request, which must be well-formed: see [`Play`].

use nearfield_api::bedrock::write_message;
use nearfield_api::openai::Limits;
use nearfield_api::{Content, Dialect, Message, OutputFormat, Prompt, Request, Tool};
use serde_json::{Value, json};

use crate::cloud_server::{CloudRequest, Script};

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

/// The dialect, model and form that an address asks for.
fn address(target: &str) -> Option<(Dialect, String, bool)> {
    let path = target.split('?').next().unwrap_or_default();
    let decoded = |name: &str| name.replace("%3A", ":").replace("%2F", "/");
    if path.ends_with("/chat/completions") {
        return Some((Dialect::OpenAiChat, String::new(), false));
    }
    if path.ends_with("/responses") {
        return Some((Dialect::OpenAiResponses, String::new(), false));
    }
    if path.ends_with("/messages") {
        return Some((Dialect::Anthropic, String::new(), false));
    }
    if let Some((_, model)) = path.rsplit_once("/models/") {
        let (model, action) = model.split_once(':')?;
        return Some((Dialect::Gemini, decoded(model), action == "streamGenerateContent"));
    }
    let (model, action) = path.strip_prefix("/model/")?.split_once('/')?;
    Some((Dialect::Bedrock, decoded(model), action == "converse-stream"))
}

/// The answer to a request in one of the dialects; `None` for any other request.
pub fn answer(request: &CloudRequest) -> Option<Script> {
    if request.target == "/token" {
        return Some(Script::json(
            200,
            &json!({"access_token": ACCESS_TOKEN, "expires_in": 3600, "token_type": "Bearer"}),
        ));
    }
    let (dialect, model, streams) = address(&request.target)?;
    let decoded = match dialect.decode_request(&request.body, &model, streams, &Limits::default()) {
        Ok(decoded) => decoded,
        Err(error) => return Some(refusal(dialect, 400, &error.message)),
    };
    if decoded.model.contains("no-such-model") {
        return Some(refusal(dialect, if dialect == Dialect::Bedrock { 400 } else { 404 }, "no such model"));
    }
    if decoded.model.contains("overloaded") {
        return Some(refusal(dialect, if dialect == Dialect::Anthropic { 529 } else { 503 }, "overloaded"));
    }
    let play = play(&decoded);
    Some(if decoded.stream {
        stream(dialect, &decoded.model, &play)
    } else {
        Script::json(200, &whole(dialect, &decoded.model, &play))
    })
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
fn whole(dialect: Dialect, model: &str, play: &Play) -> Value {
    match dialect {
        Dialect::OpenAiChat => whole_chat(model, play),
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

fn whole_chat(model: &str, play: &Play) -> Value {
    let mut message = json!({"role": "assistant", "content": null, "refusal": null});
    let mut reason = "stop";
    match play {
        Play::Text(one, two) => message["content"] = json!(format!("{one}{two}")),
        Play::Reasoning => {
            message["reasoning_content"] = json!(THOUGHT);
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
    json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}})
}

fn stream(dialect: Dialect, model: &str, play: &Play) -> Script {
    match dialect {
        Dialect::OpenAiChat => stream_chat(model, play),
        Dialect::OpenAiResponses => stream_responses(model, play),
        Dialect::Anthropic => stream_anthropic(model, play),
        Dialect::Gemini => stream_gemini(model, play),
        Dialect::Bedrock => stream_bedrock(play),
    }
}

fn stream_chat(model: &str, play: &Play) -> Script {
    let chunk = |delta: Value, reason: Option<&str>| {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        .to_string()
    };
    let mut script = Script::stream().event(&chunk(json!({"role": "assistant", "content": ""}), None));
    let mut reason = "stop";
    match play {
        Play::Text(one, two) => {
            for text in [one, two] {
                script = script.event(&chunk(json!({"content": text}), None));
            }
        }
        Play::Reasoning => {
            script = script.event(&chunk(json!({"reasoning_content": THOUGHT}), None));
            script = script.event(&chunk(json!({"content": "Hello"}), None));
        }
        Play::Refusal => script = script.event(&chunk(json!({"refusal": "No."}), None)),
        Play::Calls(name) => {
            reason = "tool_calls";
            for i in 0..2 {
                let call = json!({"index": i, "id": format!("call_{i}"), "type": "function",
                    "function": {"name": name, "arguments": ""}});
                script = script.event(&chunk(json!({"tool_calls": [call]}), None));
            }
            // The two grow in turns.
            for half in 0..2 {
                for (i, arguments) in ARGUMENTS.iter().enumerate() {
                    let (first, second) = arguments.split_at(5);
                    let piece = if half == 0 { first } else { second };
                    let call = json!({"index": i, "function": {"arguments": piece}});
                    script = script.event(&chunk(json!({"tool_calls": [call]}), None));
                }
            }
        }
    }
    script
        .event(&chunk(json!({}), Some(reason)))
        .event(&crate::cloud_server::usage(7, 2))
        .event("[DONE]")
        .end()
}

fn named(script: Script, value: &Value) -> Script {
    let kind = value["type"].as_str().unwrap_or_default();
    script.chunk(format!("event: {kind}\ndata: {value}\n\n"))
}

fn anthropic_reason(play: &Play) -> &'static str {
    match play {
        Play::Calls(_) => "tool_use",
        Play::Refusal => "refusal",
        _ => "end_turn",
    }
}

fn anthropic_blocks(play: &Play) -> Vec<Value> {
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

fn stream_anthropic(model: &str, play: &Play) -> Script {
    let usage = json!({"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0});
    let start = json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
        "model": model, "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}});
    let mut script = named(named(Script::stream(), &start), &json!({"type": "ping"}));
    for (index, block) in anthropic_blocks(play).into_iter().enumerate() {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        let (begin, deltas) = match text("type").as_str() {
            "thinking" => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                vec![
                    json!({"type": "thinking_delta", "thinking": THOUGHT}),
                    json!({"type": "signature_delta", "signature": SIGNATURE}),
                ],
            ),
            "tool_use" => {
                let (one, two) = ARGUMENTS[index].split_at(5);
                let delta = |piece: &str| json!({"type": "input_json_delta", "partial_json": piece});
                (
                    json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
                    vec![delta(""), delta(one), delta(two)],
                )
            }
            _ => {
                let whole = text("text");
                let (one, two) = whole.split_at(whole.len() / 2);
                let delta = |piece: &str| json!({"type": "text_delta", "text": piece});
                (json!({"type": "text", "text": ""}), vec![delta(one), delta(two)])
            }
        };
        script =
            named(script, &json!({"type": "content_block_start", "index": index, "content_block": begin}));
        for delta in deltas {
            script = named(script, &json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        script = named(script, &json!({"type": "content_block_stop", "index": index}));
    }
    let reason = anthropic_reason(play);
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null},
        "usage": {"output_tokens": 2}});
    named(named(script, &delta), &json!({"type": "message_stop"})).end()
}

fn gemini_reason(play: &Play) -> &'static str {
    if *play == Play::Refusal { "SAFETY" } else { "STOP" }
}

fn gemini_parts(play: &Play) -> Vec<Value> {
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

fn gemini_frame(model: &str, parts: Vec<Value>, reason: Option<&str>) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let Some(reason) = reason {
        candidate["finishReason"] = json!(reason);
    }
    json!({"candidates": [candidate], "modelVersion": model, "responseId": "r1",
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}})
}

fn stream_gemini(model: &str, play: &Play) -> Script {
    let parts = gemini_parts(play);
    let count = parts.len().max(1);
    let mut script = Script::stream();
    for at in 0..count {
        let part = parts.get(at).cloned().into_iter().collect();
        let reason = (at + 1 == count).then(|| gemini_reason(play));
        script = script.chunk(format!("data: {}\r\n\r\n", gemini_frame(model, part, reason)));
    }
    script.end()
}

fn bedrock_reason(play: &Play) -> &'static str {
    match play {
        Play::Calls(_) => "tool_use",
        Play::Refusal => "guardrail_intervened",
        _ => "end_turn",
    }
}

fn bedrock_blocks(play: &Play) -> Vec<Value> {
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

fn message(kind: &str, payload: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    // Payloads carry padding of changing length.
    let mut payload = payload.clone();
    payload["p"] = json!("abcdefgh");
    let headers = [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")];
    write_message(&mut out, &headers, payload.to_string().as_bytes());
    out
}

fn stream_bedrock(play: &Play) -> Script {
    let mut bytes = message("messageStart", &json!({"role": "assistant"}));
    for (index, block) in bedrock_blocks(play).into_iter().enumerate() {
        let mut deltas = Vec::new();
        if let Some(call) = block.get("toolUse") {
            let start = json!({"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}});
            bytes.extend(message("contentBlockStart", &json!({"contentBlockIndex": index, "start": start})));
            let (one, two) = ARGUMENTS[index].split_at(5);
            deltas.extend([one, two].map(|piece| json!({"toolUse": {"input": piece}})));
        } else if block.get("reasoningContent").is_some() {
            deltas.push(json!({"reasoningContent": {"text": THOUGHT}}));
            deltas.push(json!({"reasoningContent": {"signature": SIGNATURE}}));
        } else {
            let whole = block["text"].as_str().unwrap_or_default();
            let (one, two) = whole.split_at(whole.len() / 2);
            deltas.extend([one, two].map(|piece| json!({"text": piece})));
        }
        for delta in deltas {
            bytes.extend(message("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta})));
        }
        bytes.extend(message("contentBlockStop", &json!({"contentBlockIndex": index})));
    }
    bytes.extend(message("messageStop", &json!({"stopReason": bedrock_reason(play)})));
    let usage = json!({"inputTokens": 7, "outputTokens": 2, "totalTokens": 9});
    bytes.extend(message("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 1}})));
    Script::stream_of("application/vnd.amazon.eventstream").chunks_of(50, bytes).end()
}

fn output(play: &Play) -> Vec<Value> {
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

fn response(model: &str, status: &str, output: Vec<Value>) -> Value {
    let usage = json!({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9});
    json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": model, "output": output,
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "error": null, "incomplete_details": null,
        "instructions": null, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        "usage": if status == "completed" { usage } else { Value::Null }})
}

fn stream_responses(model: &str, play: &Play) -> Script {
    let mut number = 0;
    let mut events = Vec::new();
    let mut add = |mut value: Value| {
        value["sequence_number"] = json!(number);
        number += 1;
        events.push(value);
    };
    add(json!({"type": "response.created", "response": response(model, "in_progress", Vec::new())}));
    for (place, item) in output(play).into_iter().enumerate() {
        let mut begun = item.clone();
        let at = |kind: &str| json!({"type": kind, "output_index": place, "item_id": item["id"], "content_index": 0});
        let empty: &[(&str, Value)] = match item["type"].as_str().unwrap_or_default() {
            "message" => &[("content", json!([])), ("status", json!("in_progress"))],
            "function_call" => &[("arguments", json!("")), ("status", json!("in_progress"))],
            _ => &[("summary", json!([])), ("encrypted_content", Value::Null)],
        };
        for (name, value) in empty {
            begun[*name] = value.clone();
        }
        add(json!({"type": "response.output_item.added", "output_index": place, "item": begun}));
        for (kind, name, whole) in [
            ("response.output_text.delta", "delta", &item["content"][0]["text"]),
            ("response.refusal.delta", "delta", &item["content"][0]["refusal"]),
            ("response.function_call_arguments.delta", "delta", &item["arguments"]),
            ("response.reasoning_summary_text.delta", "delta", &item["summary"][0]["text"]),
        ] {
            let Some(whole) = whole.as_str() else { continue };
            if kind == "response.output_text.delta" || kind == "response.refusal.delta" {
                let mut part = at("response.content_part.added");
                part["part"] = json!({"type": "output_text", "text": "", "annotations": []});
                if kind == "response.refusal.delta" {
                    part["part"] = json!({"type": "refusal", "refusal": ""});
                }
                add(part);
            }
            let (one, two) = whole.split_at(whole.len() / 2);
            for piece in [one, two] {
                let mut delta = at(kind);
                delta[name] = json!(piece);
                delta["logprobs"] = json!([]);
                delta["summary_index"] = json!(0);
                add(delta);
            }
        }
        add(json!({"type": "response.output_item.done", "output_index": place, "item": item}));
    }
    add(json!({"type": "response.completed", "response": response(model, "completed", output(play))}));
    events.iter().fold(Script::stream(), named).end()
}
