//! Token counts.

use serde_json::Value;

use crate::count::Counts as _;
use crate::{Modalities, Usage};

/// Reads `usageMetadata`. The prompt's count holds what came from the cache and leaves out what the provider's tools
/// read; thoughts are counted beside the answer.
pub(crate) fn decode(value: &Value) -> Option<Usage> {
    let prompt = value.count(&["promptTokenCount"]);
    let candidates = value.count(&["candidatesTokenCount"]);
    if prompt.is_none() && candidates.is_none() {
        return None;
    }
    let count = |name: &str| value.count(&[name]).unwrap_or(0);
    let tools = count("toolUsePromptTokenCount");
    let prompt = prompt.unwrap_or(0).saturating_add(tools);
    let cached = count("cachedContentTokenCount").min(prompt);
    let of = |list: &str, modality: &str| modality_count(value, list, modality);
    let prompt_of = |modality: &str| {
        of("promptTokensDetails", modality).saturating_add(of("toolUsePromptTokensDetails", modality))
    };
    let usage = Usage {
        input: prompt - cached,
        cached_input: cached,
        output: candidates.unwrap_or(0),
        reasoning: count("thoughtsTokenCount"),
        measured: true,
        modalities: Modalities {
            audio_input: prompt_of("AUDIO"),
            // Pages of documents are read as pictures.
            image_input: prompt_of("IMAGE").saturating_add(prompt_of("DOCUMENT")),
            video_input: prompt_of("VIDEO"),
            audio_cached: of("cacheTokensDetails", "AUDIO"),
            image_cached: of("cacheTokensDetails", "IMAGE")
                .saturating_add(of("cacheTokensDetails", "DOCUMENT")),
            tool_input: tools,
            audio_output: of("candidatesTokensDetails", "AUDIO"),
            image_output: of("candidatesTokensDetails", "IMAGE"),
        },
        ..Usage::default()
    };
    Some(usage.check_total(value.count(&["totalTokenCount"])))
}

fn modality_count(value: &Value, list: &str, modality: &str) -> u64 {
    let items = value.get(list).and_then(Value::as_array).into_iter().flatten();
    items
        .filter(|item| item.get("modality").and_then(Value::as_str) == Some(modality))
        .filter_map(|item| item.count(&["tokenCount"]))
        .fold(0, u64::saturating_add)
}
