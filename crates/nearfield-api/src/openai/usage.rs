//! Token counts, written and read.

use serde::Serialize;
use serde_json::Value;

use crate::count::Counts;
use crate::{Modalities, Usage};

/// Token counts as the dialect writes them: totals, with parts of them named below.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WireUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[expect(clippy::struct_field_names, reason = "the names on the wire")]
#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cache_write_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    audio_tokens: u64,
}

#[expect(clippy::struct_field_names, reason = "the names on the wire")]
#[derive(Clone, Copy, Debug, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    accepted_prediction_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    rejected_prediction_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    audio_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Usage> for WireUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens(),
            completion_tokens: usage.completion_tokens(),
            total_tokens: usage.total_tokens(),
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_input,
                cache_write_tokens: usage.cache_write.saturating_add(usage.cache_write_1h),
                audio_tokens: usage.modalities.audio_input,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning,
                accepted_prediction_tokens: usage.accepted_prediction,
                rejected_prediction_tokens: usage.rejected_prediction,
                audio_tokens: usage.modalities.audio_output,
            },
        }
    }
}

/// Reads a `usage` object into disjoint buckets, whose sum is the provider's total.
///
/// Servers differ in where hidden reasoning stands: inside `completion_tokens` (OpenAI), beside it (the total shows
/// that), or nowhere but in the total, which then stays unattributed. Without the main counts there is no usage.
pub(crate) fn decode(value: &Value) -> Option<Usage> {
    let count = |path: &[&str]| value.count(path);
    let (prompt, completion) = main_counts(value)?;
    let sum = prompt.checked_add(completion)?;
    let cached = count(&["prompt_tokens_details", "cached_tokens"])
        .or_else(|| count(&["prompt_cache_hit_tokens"]))
        .or_else(|| count(&["cached_tokens"]))
        .unwrap_or(0)
        .min(prompt);
    let cache_write =
        count(&["prompt_tokens_details", "cache_write_tokens"]).unwrap_or(0).min(prompt - cached);
    let named = count(&["completion_tokens_details", "reasoning_tokens"]).unwrap_or(0);
    let total = count(&["total_tokens"]);
    let beside = named > completion || (named > 0 && total == sum.checked_add(named));
    let (output, reasoning) = if beside { (completion, named) } else { (completion - named, named) };
    let usage = Usage {
        input: prompt - cached - cache_write,
        cached_input: cached,
        cache_write,
        output,
        reasoning,
        accepted_prediction: count(&["completion_tokens_details", "accepted_prediction_tokens"]).unwrap_or(0),
        rejected_prediction: count(&["completion_tokens_details", "rejected_prediction_tokens"]).unwrap_or(0),
        measured: true,
        modalities: Modalities {
            audio_input: count(&["prompt_tokens_details", "audio_tokens"]).unwrap_or(0),
            image_input: count(&["prompt_tokens_details", "image_tokens"]).unwrap_or(0),
            video_input: count(&["prompt_tokens_details", "video_tokens"]).unwrap_or(0),
            audio_output: count(&["completion_tokens_details", "audio_tokens"]).unwrap_or(0),
            image_output: count(&["completion_tokens_details", "image_tokens"]).unwrap_or(0),
            ..Modalities::default()
        },
        ..Usage::default()
    };
    Some(usage.check_total(total))
}

/// The prompt's and the answer's counts.
///
/// A service that generates nothing names a prompt and a total; what the total holds beyond the prompt is nobody's.
/// Cohere counts what its models read and wrote under `tokens`, and what it charges under `billed_units`, which is all
/// that its embeddings have.
fn main_counts(value: &Value) -> Option<(u64, u64)> {
    let of = |part: &str, name: &str| value.count(&[part, name]);
    if let Some(prompt) = value.count(&["prompt_tokens"]) {
        let completion = value.count(&["completion_tokens"]);
        return Some((prompt, completion.or_else(|| value.count(&["total_tokens"]).map(|_| 0))?));
    }
    if let Some(input) = of("tokens", "input_tokens") {
        return Some((input, of("tokens", "output_tokens")?));
    }
    Some((of("billed_units", "input_tokens")?, of("billed_units", "output_tokens").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn buckets(value: Value) -> Option<[u64; 5]> {
        decode(&value)
            .map(|usage| [usage.input, usage.cached_input, usage.output, usage.reasoning, usage.unattributed])
    }

    #[test]
    fn parts_are_taken_out_of_their_totals() {
        let value = json!({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 20}});
        assert_eq!(buckets(value), Some([40, 60, 30, 20, 0]));
        assert_eq!(
            buckets(json!({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4})),
            Some([5, 4, 1, 0, 0])
        );
    }

    #[test]
    fn reasoning_beside_the_completion() {
        let value = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45,
            "completion_tokens_details": {"reasoning_tokens": 30}});
        assert_eq!(buckets(value), Some([10, 0, 5, 30, 0]));
    }

    #[test]
    fn a_total_that_does_not_add_up_is_noted() {
        let value = json!({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109});
        let usage = decode(&value).unwrap();
        assert_eq!((usage.unattributed, usage.total_tokens()), (62, 109));
        assert!(usage.warning().unwrap().contains("109"));
        let less =
            decode(&json!({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 40})).unwrap();
        assert_eq!((less.unattributed, less.total_tokens()), (0, 47));
        assert!(less.warning().is_some());
        assert!(
            decode(&json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}))
                .unwrap()
                .warning()
                .is_none()
        );
    }

    #[test]
    fn services_that_embed_have_no_answer() {
        assert_eq!(buckets(json!({"prompt_tokens": 4, "total_tokens": 4})), Some([4, 0, 0, 0, 0]));
        assert_eq!(buckets(json!({"prompt_tokens": 4, "total_tokens": 6})), Some([4, 0, 0, 0, 2]));
        assert_eq!(
            buckets(
                json!({"api_version": {"version": "2"}, "billed_units": {"image_tokens": 0, "input_tokens": 4}})
            ),
            Some([4, 0, 0, 0, 0])
        );
    }

    #[test]
    fn cohere_counts_what_was_read_apart_from_what_it_charges() {
        let charged = json!({"input_tokens": 41, "output_tokens": 25});
        let value = json!({"billed_units": charged, "cached_tokens": 144,
            "tokens": {"input_tokens": 1441, "output_tokens": 54}});
        assert_eq!(buckets(value), Some([1297, 144, 54, 0, 0]));
        assert_eq!(buckets(json!({"billed_units": charged})), Some([41, 0, 25, 0, 0]));
    }

    #[test]
    fn odd_objects_are_no_usage_or_a_sound_one() {
        assert_eq!(buckets(json!({})), None);
        assert_eq!(buckets(json!(null)), None);
        assert_eq!(buckets(json!({"prompt_tokens": 3})), None);
        assert_eq!(buckets(json!({"prompt_tokens": -3, "completion_tokens": 1})), None);
        assert_eq!(buckets(json!({"prompt_tokens": 3.0, "completion_tokens": 1})), Some([3, 0, 1, 0, 0]));
        assert_eq!(
            buckets(json!({"prompt_tokens": 3, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 7}, "completion_tokens_details": null})),
            Some([0, 3, 1, 0, 0])
        );
        assert_eq!(buckets(json!({"prompt_tokens": u64::MAX, "completion_tokens": 1})), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(input in 0..1u64 << 40, cached_input in 0..1u64 << 40, cache_write in 0..1u64 << 40,
            output in 0..1u64 << 40, reasoning in 0..1u64 << 40) {
            let usage =
                Usage { input, cached_input, cache_write, output, reasoning, measured: true, ..Usage::default() };
            let value = serde_json::to_value(WireUsage::from(usage)).unwrap();
            prop_assert_eq!(decode(&value), Some(usage));
        }

        #[test]
        fn the_sum_is_the_total(prompt in 0..1000u64, completion in 0..1000u64, beyond in 0..1000u64,
            cached in 0..2000u64, named in 0..1000u64) {
            let usage = decode(&json!({"prompt_tokens": prompt, "completion_tokens": completion,
                "total_tokens": prompt + completion + beyond,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"reasoning_tokens": named.min(completion)}})).unwrap();
            prop_assert_eq!(usage.total_tokens(), prompt + completion + beyond);
        }
    }
}
