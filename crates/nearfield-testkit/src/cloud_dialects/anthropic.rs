//! Anthropic's Messages.

use serde_json::{Value, json};

use crate::cloud_streams::Frames;
use crate::plays::{AFTER_THOUGHT, ARGUMENTS, Counts, Play, REFUSAL, Reason, SIGNATURE, Says, THOUGHT};

/// The reason, and the stop text where that is it.
fn reason(play: &Play) -> (&'static str, Option<&str>) {
    match &play.reason {
        Reason::End => ("end_turn", None),
        Reason::StopText(text) => ("stop_sequence", Some(text)),
        Reason::Limit => ("max_tokens", None),
        Reason::Calls => ("tool_use", None),
        Reason::Refusal => ("refusal", None),
    }
}

/// Thoughts are part of the output; what came from the cache is not part of the input.
fn usage(counts: Counts) -> Value {
    json!({"input_tokens": counts.input, "output_tokens": counts.completion(),
        "cache_read_input_tokens": counts.cached, "cache_creation_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": counts.reasoning}})
}

fn blocks(play: &Play) -> Vec<Value> {
    let text = |text: String| json!({"type": "text", "text": text});
    match &play.says {
        Says::Text(..) => vec![text(play.text())],
        Says::Reasoning => {
            vec![
                json!({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}),
                text(AFTER_THOUGHT.to_owned()),
            ]
        }
        Says::Refusal => vec![text(REFUSAL.to_owned())],
        Says::Calls(name, count) => ARGUMENTS
            .iter()
            .take(*count)
            .enumerate()
            .map(|(i, arguments)| {
                let input: Value = serde_json::from_str(arguments).unwrap_or_default();
                json!({"type": "tool_use", "id": format!("toolu_{i}"), "name": name, "input": input})
            })
            .collect(),
    }
}

pub(super) fn whole(model: &str, play: &Play) -> Value {
    let (reason, stop) = reason(play);
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": blocks(play),
        "stop_reason": reason, "stop_sequence": stop, "usage": usage(play.counts)})
}

pub(super) fn stream(model: &str, play: &Play) -> Frames {
    let mut frames = Frames::default();
    let begun = usage(Counts { output: 1, reasoning: 0, ..play.counts });
    frames.named(
        &json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
        "model": model, "content": [], "stop_reason": null, "stop_sequence": null, "usage": begun}}),
    );
    frames.named(&json!({"type": "ping"}));
    for (index, block) in blocks(play).into_iter().enumerate() {
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
                let (one, two) = ARGUMENTS.get(index).copied().unwrap_or("{}").split_at(5);
                let delta = |piece: &str| json!({"type": "input_json_delta", "partial_json": piece});
                (
                    json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
                    vec![delta(""), delta(one), delta(two)],
                )
            }
            _ => {
                let delta = |piece: &str| json!({"type": "text_delta", "text": piece});
                let mut deltas: Vec<Value> = play.pieces().map(delta).collect();
                if deltas.is_empty() {
                    deltas.push(delta(&text("text")));
                }
                (json!({"type": "text", "text": ""}), deltas)
            }
        };
        frames.named(&json!({"type": "content_block_start", "index": index, "content_block": begin}));
        for delta in deltas {
            frames.named(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
            frames.has_begun();
        }
        frames.named(&json!({"type": "content_block_stop", "index": index}));
    }
    let (reason, stop) = reason(play);
    frames.named(&json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": stop},
        "usage": {"output_tokens": play.counts.completion(),
            "output_tokens_details": {"thinking_tokens": play.counts.reasoning}}}));
    frames.named(&json!({"type": "message_stop"}));
    frames
}
