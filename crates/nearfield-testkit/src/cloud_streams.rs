//! Streamed answers in the dialects of all providers, good ones and those that fail in the middle.

use nearfield_api::Dialect;
use nearfield_api::bedrock::write_message;
use serde_json::{Value, json};

use crate::cloud_dialects::{
    ARGUMENTS, Asked, Play, SIGNATURE, THOUGHT, anthropic_blocks, anthropic_reason, bedrock_blocks,
    bedrock_reason, gemini_frame, gemini_parts, gemini_reason, output, response, thought_field,
};
use crate::cloud_server::Script;

/// A stream that fails after its first text, as the provider says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The media type of the stream.
    pub media_type: &'static str,
    /// All that comes up to the first piece of text, which is [`BEGINNING`] or begins with it.
    pub begin: Vec<u8>,
    /// The frame that tells of the failure.
    pub fault: Vec<u8>,
}

/// What a [`Broken`] stream says before it fails.
pub const BEGINNING: &str = "Hello";
/// The provider's words for its failure.
const COMPLAINT: &str = "as the fault says";

/// A stream of a dialect that fails.
pub fn broken(dialect: Dialect) -> Broken {
    let asked = Asked { dialect, model: "m".to_owned(), amazon: false };
    let mut begin = Vec::new();
    for piece in pieces(&asked, &Play::Text(BEGINNING, ", world")) {
        begin.extend_from_slice(&piece);
        if piece.windows(BEGINNING.len()).any(|text| text == BEGINNING.as_bytes()) {
            break;
        }
    }
    Broken { media_type: media_type(dialect), begin, fault: fault(dialect) }
}

impl Broken {
    /// The stream with its failure.
    pub fn script(&self) -> Script {
        Script::stream_of(self.media_type).chunk(&self.begin).chunk(&self.fault).end()
    }
}

fn fault(dialect: Dialect) -> Vec<u8> {
    match dialect {
        Dialect::OpenAiChat => {
            let error =
                json!({"message": COMPLAINT, "type": "overloaded_error", "param": null, "code": null});
            event(&json!({"error": error}))
        }
        Dialect::OpenAiResponses => {
            let mut failed = response("m", "failed", Vec::new());
            failed["error"] = json!({"code": "rate_limit_exceeded", "message": COMPLAINT});
            named(&json!({"type": "response.failed", "sequence_number": 99, "response": failed}))
        }
        Dialect::Anthropic => {
            named(&json!({"type": "error", "error": {"type": "overloaded_error", "message": COMPLAINT}}))
        }
        Dialect::Gemini => {
            let error = json!({"code": 503, "message": COMPLAINT, "status": "UNAVAILABLE"});
            format!("data: {}\r\n\r\n", json!({"error": error})).into_bytes()
        }
        Dialect::Bedrock => {
            let mut frame = Vec::new();
            let headers = [
                (":exception-type", "throttlingException"),
                (":content-type", "application/json"),
                (":message-type", "exception"),
            ];
            write_message(&mut frame, &headers, json!({"message": COMPLAINT}).to_string().as_bytes());
            frame
        }
    }
}

const fn media_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Bedrock => "application/vnd.amazon.eventstream",
        _ => "text/event-stream",
    }
}

/// A good answer.
pub(crate) fn stream(asked: &Asked, play: &Play) -> Script {
    let script = Script::stream_of(media_type(asked.dialect));
    let pieces = pieces(asked, play);
    // Messages of AWS's framing and chunks of the transport have nothing to do with each other.
    if asked.dialect == Dialect::Bedrock {
        return script.chunks_of(50, pieces.concat()).end();
    }
    pieces.iter().fold(script, Script::chunk).end()
}

fn pieces(asked: &Asked, play: &Play) -> Vec<Vec<u8>> {
    match asked.dialect {
        Dialect::OpenAiChat => chat(asked, play),
        Dialect::OpenAiResponses => responses(&asked.model, play),
        Dialect::Anthropic => anthropic(&asked.model, play),
        Dialect::Gemini => gemini(&asked.model, play),
        Dialect::Bedrock => bedrock(play),
    }
}

fn event(data: impl std::fmt::Display) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

fn named(value: &Value) -> Vec<u8> {
    let kind = value["type"].as_str().unwrap_or_default();
    format!("event: {kind}\ndata: {value}\n\n").into_bytes()
}

fn chat(asked: &Asked, play: &Play) -> Vec<Vec<u8>> {
    let chunk = |delta: Value, reason: Option<&str>| {
        let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": asked.model, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        if asked.amazon {
            chunk["service_tier"] = json!("default");
        }
        event(&chunk)
    };
    let mut pieces = vec![chunk(json!({"role": "assistant", "content": ""}), None)];
    let mut add = |delta: Value| pieces.push(chunk(delta, None));
    let mut reason = "stop";
    match play {
        Play::Text(one, two) => [one, two].into_iter().for_each(|text| add(json!({"content": text}))),
        Play::Reasoning => {
            add(json!({thought_field(asked): THOUGHT}));
            add(json!({"content": "Hello"}));
        }
        Play::Refusal => add(json!({"refusal": "No."})),
        Play::Calls(name) => {
            reason = "tool_calls";
            for i in 0..2 {
                let call = json!({"index": i, "id": format!("call_{i}"), "type": "function",
                    "function": {"name": name, "arguments": ""}});
                add(json!({"tool_calls": [call]}));
            }
            // The two grow in turns.
            for half in 0..2 {
                for (i, arguments) in ARGUMENTS.iter().enumerate() {
                    let (first, second) = arguments.split_at(5);
                    let piece = if half == 0 { first } else { second };
                    add(json!({"tool_calls": [{"index": i, "function": {"arguments": piece}}]}));
                }
            }
        }
    }
    pieces.push(chunk(json!({}), Some(reason)));
    pieces.push(event(crate::cloud_server::usage(7, 2)));
    pieces.push(event("[DONE]"));
    pieces
}

fn anthropic(model: &str, play: &Play) -> Vec<Vec<u8>> {
    let usage = json!({"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0});
    let start = json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
        "model": model, "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}});
    let mut pieces = vec![named(&start), named(&json!({"type": "ping"}))];
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
        pieces.push(named(&json!({"type": "content_block_start", "index": index, "content_block": begin})));
        for delta in deltas {
            pieces.push(named(&json!({"type": "content_block_delta", "index": index, "delta": delta})));
        }
        pieces.push(named(&json!({"type": "content_block_stop", "index": index})));
    }
    let reason = anthropic_reason(play);
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null},
        "usage": {"output_tokens": 2}});
    pieces.push(named(&delta));
    pieces.push(named(&json!({"type": "message_stop"})));
    pieces
}

fn gemini(model: &str, play: &Play) -> Vec<Vec<u8>> {
    let parts = gemini_parts(play);
    let count = parts.len().max(1);
    (0..count)
        .map(|at| {
            let part = parts.get(at).cloned().into_iter().collect();
            let reason = (at + 1 == count).then(|| gemini_reason(play));
            format!("data: {}\r\n\r\n", gemini_frame(model, part, reason)).into_bytes()
        })
        .collect()
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

fn bedrock(play: &Play) -> Vec<Vec<u8>> {
    let mut pieces = vec![message("messageStart", &json!({"role": "assistant"}))];
    for (index, block) in bedrock_blocks(play).into_iter().enumerate() {
        let mut deltas = Vec::new();
        if let Some(call) = block.get("toolUse") {
            let start = json!({"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}});
            pieces.push(message("contentBlockStart", &json!({"contentBlockIndex": index, "start": start})));
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
            pieces.push(message("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta})));
        }
        pieces.push(message("contentBlockStop", &json!({"contentBlockIndex": index})));
    }
    pieces.push(message("messageStop", &json!({"stopReason": bedrock_reason(play)})));
    let usage = json!({"inputTokens": 7, "outputTokens": 2, "totalTokens": 9});
    pieces.push(message("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 1}})));
    pieces
}

fn responses(model: &str, play: &Play) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut add = |mut value: Value| {
        value["sequence_number"] = json!(pieces.len());
        pieces.push(named(&value));
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
    pieces
}
