//! Google's generateContent.

use serde_json::{Value, json};

use crate::cloud_streams::Frames;
use crate::plays::{AFTER_THOUGHT, ARGUMENTS, Counts, Play, Reason, SIGNATURE, Says, THOUGHT};

fn reason(play: &Play) -> &'static str {
    match play.reason {
        Reason::End | Reason::StopText(_) | Reason::Calls => "STOP",
        Reason::Limit => "MAX_TOKENS",
        Reason::Refusal => "SAFETY",
    }
}

fn parts(play: &Play) -> Vec<Value> {
    match &play.says {
        Says::Text(..) => play.pieces().map(|piece| json!({"text": piece})).collect(),
        Says::Reasoning => vec![
            json!({"text": THOUGHT, "thought": true}),
            json!({"text": AFTER_THOUGHT, "thoughtSignature": SIGNATURE}),
        ],
        Says::Refusal => Vec::new(),
        Says::Calls(name, count) => ARGUMENTS
            .iter()
            .take(*count)
            .enumerate()
            .map(|(i, arguments)| {
                let args: Value = serde_json::from_str(arguments).unwrap_or_default();
                let mut part = json!({"functionCall": {"name": name, "args": args}});
                if i == 0 {
                    part["thoughtSignature"] = json!(SIGNATURE);
                }
                part
            })
            .collect(),
    }
}

/// What came from the cache is part of the prompt's count; thoughts stand beside the candidates'.
fn usage(counts: Counts) -> Value {
    json!({"promptTokenCount": counts.prompt(), "cachedContentTokenCount": counts.cached,
        "candidatesTokenCount": counts.output, "thoughtsTokenCount": counts.reasoning,
        "totalTokenCount": counts.total()})
}

fn frame(model: &str, play: &Play, parts: &[Value], reason: Option<&str>) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}});
    if let Some(reason) = reason {
        candidate["finishReason"] = json!(reason);
    }
    if play.logprobs {
        let texts = parts.iter().filter_map(|part| part["text"].as_str());
        let chosen: Vec<Value> =
            texts.map(|text| json!({"token": text, "tokenId": 1, "logProbability": -0.25})).collect();
        candidate["logprobsResult"] = json!({"chosenCandidates": chosen});
    }
    let candidates: Vec<Value> = (0..play.choices)
        .map(|index| {
            let mut candidate = candidate.clone();
            candidate["index"] = json!(index);
            candidate
        })
        .collect();
    json!({"candidates": candidates, "modelVersion": model, "responseId": "r1",
        "usageMetadata": usage(play.counts)})
}

pub(super) fn whole(model: &str, play: &Play) -> Value {
    frame(model, play, &parts(play), Some(reason(play)))
}

pub(super) fn stream(model: &str, play: &Play) -> Frames {
    let parts = parts(play);
    let count = parts.len().max(1);
    let mut frames = Frames::default();
    for at in 0..count {
        let part = parts.get(at..at + 1).unwrap_or_default();
        let reason = (at + 1 == count).then(|| reason(play));
        frames.push(format!("data: {}\r\n\r\n", frame(model, play, part, reason)));
        frames.has_begun();
    }
    frames
}
