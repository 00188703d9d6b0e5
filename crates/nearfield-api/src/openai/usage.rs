//! Token counts, written and read.

use serde::Serialize;
use serde_json::Value;

use crate::Usage;

/// Token counts as the dialect writes them: totals, with parts of them named below.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WireUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for WireUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens(),
            completion_tokens: usage.completion_tokens(),
            total_tokens: usage.prompt_tokens().saturating_add(usage.completion_tokens()),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_input },
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning },
        }
    }
}

/// Reads a `usage` object into disjoint buckets, whose sum is the provider's total.
///
/// Servers differ in where hidden reasoning stands: inside `completion_tokens` (OpenAI), beside it (the total shows
/// that), or nowhere but in the total (Gemini). Without both main counts there is no usage.
pub(crate) fn decode(value: &Value) -> Option<Usage> {
    let count = |path: &[&str]| {
        path.iter().try_fold(value, |value, name| value.get(name)).and_then(|number| {
            // Some servers write counts as 12.0.
            number.as_u64().or_else(|| {
                number.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n < 1e15).map(|n| n as u64)
            })
        })
    };
    let prompt = count(&["prompt_tokens"])?;
    let completion = count(&["completion_tokens"])?;
    let sum = prompt.checked_add(completion)?;
    let cached = count(&["prompt_tokens_details", "cached_tokens"])
        .or_else(|| count(&["prompt_cache_hit_tokens"]))
        .unwrap_or(0)
        .min(prompt);
    let named = count(&["completion_tokens_details", "reasoning_tokens"]).unwrap_or(0);
    let beyond = count(&["total_tokens"]).and_then(|total| total.checked_sub(sum)).unwrap_or(0);
    let (output, reasoning) = if beyond > 0 || named > completion {
        (completion, beyond.max(named))
    } else {
        (completion - named, named)
    };
    Some(Usage { input: prompt - cached, cached_input: cached, output, reasoning, measured: true })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn buckets(value: Value) -> Option<[u64; 4]> {
        decode(&value).map(|usage| [usage.input, usage.cached_input, usage.output, usage.reasoning])
    }

    #[test]
    fn parts_are_taken_out_of_their_totals() {
        let value = json!({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 20}});
        assert_eq!(buckets(value), Some([40, 60, 30, 20]));
        assert_eq!(
            buckets(json!({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4})),
            Some([5, 4, 1, 0])
        );
    }

    #[test]
    fn reasoning_beside_the_completion() {
        let value = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45,
            "completion_tokens_details": {"reasoning_tokens": 30}});
        assert_eq!(buckets(value), Some([10, 0, 5, 30]));
        assert_eq!(
            buckets(json!({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109})),
            Some([35, 0, 12, 62])
        );
    }

    #[test]
    fn odd_objects_are_no_usage_or_a_sound_one() {
        assert_eq!(buckets(json!({})), None);
        assert_eq!(buckets(json!(null)), None);
        assert_eq!(buckets(json!({"prompt_tokens": 3})), None);
        assert_eq!(buckets(json!({"prompt_tokens": -3, "completion_tokens": 1})), None);
        assert_eq!(buckets(json!({"prompt_tokens": 3.0, "completion_tokens": 1})), Some([3, 0, 1, 0]));
        assert_eq!(
            buckets(json!({"prompt_tokens": 3, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 7}, "completion_tokens_details": null})),
            Some([0, 3, 1, 0])
        );
        assert_eq!(buckets(json!({"prompt_tokens": u64::MAX, "completion_tokens": 1})), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(input in 0..1u64 << 40, cached_input in 0..1u64 << 40, output in 0..1u64 << 40,
            reasoning in 0..1u64 << 40) {
            let usage = Usage { input, cached_input, output, reasoning, measured: true };
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
            if beyond == 0 || beyond >= named.min(completion) {
                prop_assert_eq!(usage.prompt_tokens() + usage.completion_tokens(), prompt + completion + beyond);
            }
        }
    }
}
