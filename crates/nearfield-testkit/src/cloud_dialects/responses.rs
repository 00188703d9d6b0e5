//! OpenAI's Responses.

use serde_json::{Value, json};

use crate::cloud_streams::Frames;
use crate::plays::{AFTER_THOUGHT, ARGUMENTS, Counts, Play, REFUSAL, Reason, SIGNATURE, Says, THOUGHT};

fn output(play: &Play) -> Vec<Value> {
    let says = |parts: Value| {
        json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": parts})
    };
    let text = |text: &str| json!([{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]);
    match &play.says {
        Says::Text(..) => vec![says(text(&play.text()))],
        Says::Reasoning => vec![
            json!({"type": "reasoning", "id": "rs_1", "encrypted_content": SIGNATURE,
                "summary": [{"type": "summary_text", "text": THOUGHT}]}),
            says(text(AFTER_THOUGHT)),
        ],
        Says::Refusal => vec![says(json!([{"type": "refusal", "refusal": REFUSAL}]))],
        Says::Calls(name, count) => ARGUMENTS
            .iter()
            .take(*count)
            .enumerate()
            .map(|(i, arguments)| {
                json!({"type": "function_call", "id": format!("fc_{i}"), "call_id": format!("call_{i}"),
                    "name": name, "arguments": arguments, "status": "completed"})
            })
            .collect(),
    }
}

/// Both main counts hold their parts.
fn usage(counts: Counts) -> Value {
    json!({"input_tokens": counts.prompt(), "input_tokens_details": {"cached_tokens": counts.cached},
        "output_tokens": counts.completion(), "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.total()})
}

fn response(model: &str, status: &str, why: Option<&str>, output: Vec<Value>, usage: Value) -> Value {
    json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": model, "output": output,
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "error": null,
        "incomplete_details": why.map(|reason| json!({"reason": reason})), "instructions": null, "metadata": {},
        "temperature": 1.0, "top_p": 1.0, "usage": usage})
}

pub(super) fn whole(model: &str, play: &Play) -> Value {
    let (status, why) = match play.reason {
        Reason::Limit => ("incomplete", Some("max_output_tokens")),
        _ => ("completed", None),
    };
    response(model, status, why, output(play), usage(play.counts))
}

/// Numbers the events.
struct Numbered {
    frames: Frames,
    number: u64,
}

impl Numbered {
    fn add(&mut self, mut event: Value) {
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        self.frames.named(&event);
    }

    fn item(&mut self, place: usize, item: &Value, play: &Play) {
        let mut begun = item.clone();
        let empty: &[(&str, Value)] = match item["type"].as_str().unwrap_or_default() {
            "message" => &[("content", json!([])), ("status", json!("in_progress"))],
            "function_call" => &[("arguments", json!("")), ("status", json!("in_progress"))],
            _ => &[("summary", json!([])), ("encrypted_content", Value::Null)],
        };
        for (name, value) in empty {
            begun[*name] = value.clone();
        }
        self.add(json!({"type": "response.output_item.added", "output_index": place, "item": begun}));
        for (kind, whole) in [
            ("response.output_text.delta", &item["content"][0]["text"]),
            ("response.refusal.delta", &item["content"][0]["refusal"]),
            ("response.function_call_arguments.delta", &item["arguments"]),
            ("response.reasoning_summary_text.delta", &item["summary"][0]["text"]),
        ] {
            let Some(whole) = whole.as_str() else { continue };
            let part = match kind {
                "response.output_text.delta" => json!({"type": "output_text", "text": "", "annotations": []}),
                "response.refusal.delta" => json!({"type": "refusal", "refusal": ""}),
                _ => Value::Null,
            };
            let at = |kind: &str| json!({"type": kind, "output_index": place, "item_id": item["id"], "content_index": 0});
            if !part.is_null() {
                let mut added = at("response.content_part.added");
                added["part"] = part;
                self.add(added);
            }
            for piece in pieces(kind, whole, play) {
                let mut delta = at(kind);
                delta["delta"] = json!(piece);
                delta["logprobs"] = json!([]);
                delta["summary_index"] = json!(0);
                self.add(delta);
                self.frames.has_begun();
            }
        }
        self.add(json!({"type": "response.output_item.done", "output_index": place, "item": item}));
    }
}

fn pieces<'a>(kind: &str, whole: &'a str, play: &Play) -> Vec<&'a str> {
    let first = play.pieces().next().map_or(0, str::len);
    let at = if kind == "response.output_text.delta" { first } else { whole.len() / 2 };
    let (one, two) = whole.split_at(at.min(whole.len()));
    [one, two].into_iter().filter(|piece| !piece.is_empty()).collect()
}

pub(super) fn stream(model: &str, play: &Play) -> Frames {
    let mut events = Numbered { frames: Frames::default(), number: 0 };
    let begun = response(model, "in_progress", None, Vec::new(), Value::Null);
    events.add(json!({"type": "response.created", "response": begun}));
    for (place, item) in output(play).iter().enumerate() {
        events.item(place, item, play);
    }
    let whole = whole(model, play);
    let kind = if whole["status"] == "completed" { "response.completed" } else { "response.incomplete" };
    events.add(json!({"type": kind, "response": whole}));
    events.frames
}
