//! Converse of AWS Bedrock.

use nearfield_api::bedrock::write_message;
use serde_json::{Value, json};

use crate::cloud_streams::Frames;
use crate::plays::{AFTER_THOUGHT, ARGUMENTS, Counts, Play, REFUSAL, Reason, SIGNATURE, Says, THOUGHT};

fn reason(play: &Play) -> &'static str {
    match play.reason {
        Reason::End => "end_turn",
        Reason::StopText(_) => "stop_sequence",
        Reason::Limit => "max_tokens",
        Reason::Calls => "tool_use",
        Reason::Refusal => "guardrail_intervened",
    }
}

/// What came from the cache is not part of the input; thoughts are not told from the rest of the output.
fn usage(counts: Counts) -> Value {
    json!({"inputTokens": counts.input, "outputTokens": counts.completion(), "totalTokens": counts.total(),
        "cacheReadInputTokens": counts.cached})
}

fn blocks(play: &Play) -> Vec<Value> {
    match &play.says {
        Says::Text(..) => vec![json!({"text": play.text()})],
        Says::Reasoning => vec![
            json!({"reasoningContent": {"reasoningText": {"text": THOUGHT, "signature": SIGNATURE}}}),
            json!({"text": AFTER_THOUGHT}),
        ],
        Says::Refusal => vec![json!({"text": REFUSAL})],
        Says::Calls(name, count) => ARGUMENTS
            .iter()
            .take(*count)
            .enumerate()
            .map(|(i, arguments)| {
                let input: Value = serde_json::from_str(arguments).unwrap_or_default();
                json!({"toolUse": {"toolUseId": format!("tooluse_{i}"), "name": name, "input": input}})
            })
            .collect(),
    }
}

pub(super) fn whole(play: &Play) -> Value {
    json!({"output": {"message": {"role": "assistant", "content": blocks(play)}}, "stopReason": reason(play),
        "metrics": {"latencyMs": 1}, "usage": usage(play.counts)})
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

pub(super) fn stream(play: &Play) -> Frames {
    let mut frames = Frames::default();
    frames.push(message("messageStart", &json!({"role": "assistant"})));
    for (index, block) in blocks(play).into_iter().enumerate() {
        let mut deltas = Vec::new();
        if let Some(call) = block.get("toolUse") {
            let start = json!({"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}});
            frames.push(message("contentBlockStart", &json!({"contentBlockIndex": index, "start": start})));
            let (one, two) = ARGUMENTS.get(index).copied().unwrap_or("{}").split_at(5);
            deltas.extend([one, two].map(|piece| json!({"toolUse": {"input": piece}})));
        } else if block.get("reasoningContent").is_some() {
            deltas.push(json!({"reasoningContent": {"text": THOUGHT}}));
            deltas.push(json!({"reasoningContent": {"signature": SIGNATURE}}));
        } else {
            deltas.extend(play.pieces().map(|piece| json!({"text": piece})));
            if deltas.is_empty() {
                deltas.push(block);
            }
        }
        for delta in deltas {
            let payload = json!({"contentBlockIndex": index, "delta": delta});
            frames.push(message("contentBlockDelta", &payload));
            frames.has_begun();
        }
        frames.push(message("contentBlockStop", &json!({"contentBlockIndex": index})));
    }
    frames.push(message("messageStop", &json!({"stopReason": reason(play)})));
    frames.push(message("metadata", &json!({"usage": usage(play.counts), "metrics": {"latencyMs": 1}})));
    frames
}
