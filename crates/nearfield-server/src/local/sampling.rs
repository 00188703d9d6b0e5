//! Completes a request's sampling by what the model's makers advise, and by our own defaults.

use std::hash::{BuildHasher as _, Hasher as _};

use nearfield_model::tokenizer::GenerationConfig;

/// What holds where neither the request nor the model says anything: the defaults of llama.cpp.
const TEMPERATURE: f32 = 0.8;
const TOP_K: u32 = 40;
const TOP_P: f32 = 0.95;
const MIN_P: f32 = 0.05;

/// The engine's settings for a request. `unknown` are tokens that the tokenizer does not know.
pub(super) fn complete(
    asked: &nearfield_api::Sampling,
    seed: u64,
    advised: &GenerationConfig,
    unknown: &[u32],
) -> nearfield_engine::Sampling {
    // What the files say of sampling has no meaning where they say not to sample.
    let greedy = advised.do_sample == Some(false);
    let of = |value: Option<f32>| value.filter(|_| !greedy);
    let temperature = if greedy { 0.0 } else { advised.temperature.unwrap_or(TEMPERATURE) };
    let mut suppressed = unknown.to_vec();
    suppressed.extend(&advised.suppress_tokens);
    nearfield_engine::Sampling {
        temperature: asked.temperature.unwrap_or(temperature),
        top_k: asked.top_k.or(advised.top_k.filter(|_| !greedy)).unwrap_or(TOP_K),
        top_p: asked.top_p.or(of(advised.top_p)).unwrap_or(TOP_P),
        min_p: asked.min_p.or(of(advised.min_p)).unwrap_or(MIN_P),
        repetition_penalty: asked.repetition_penalty.or(advised.repetition_penalty).unwrap_or(1.0),
        presence_penalty: asked.presence_penalty.unwrap_or(0.0),
        frequency_penalty: asked.frequency_penalty.unwrap_or(0.0),
        logit_bias: asked.logit_bias.clone(),
        seed: Some(seed),
        suppressed,
    }
}

/// A seed for a request without one: small enough that every JSON reader keeps all of its digits.
pub(super) fn draw_seed() -> u64 {
    // The standard library keys its hasher by the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(asked: &nearfield_api::Sampling, advised: &GenerationConfig) -> nearfield_engine::Sampling {
        complete(asked, 7, advised, &[90, 91])
    }

    #[test]
    fn the_request_goes_before_the_model_and_the_model_before_us() {
        let asked = nearfield_api::Sampling { temperature: Some(0.0), ..Default::default() };
        let advised = GenerationConfig {
            temperature: Some(0.6),
            top_k: Some(20),
            suppress_tokens: vec![5],
            repetition_penalty: Some(1.1),
            ..GenerationConfig::default()
        };
        let settings = completed(&asked, &advised);
        assert_eq!((settings.temperature, settings.top_k, settings.top_p), (0.0, 20, TOP_P));
        assert_eq!((settings.repetition_penalty, settings.seed), (1.1, Some(7)));
        assert_eq!(settings.suppressed, [90, 91, 5]);
        let settings = completed(&nearfield_api::Sampling::default(), &GenerationConfig::default());
        assert_eq!((settings.temperature, settings.top_k), (TEMPERATURE, TOP_K));
        assert_eq!((settings.min_p, settings.repetition_penalty), (MIN_P, 1.0));
    }

    #[test]
    fn a_model_that_is_not_to_be_sampled_is_greedy_unless_asked_otherwise() {
        let advised = GenerationConfig {
            do_sample: Some(false),
            temperature: Some(0.6),
            top_k: Some(20),
            ..GenerationConfig::default()
        };
        assert_eq!(completed(&nearfield_api::Sampling::default(), &advised).temperature, 0.0);
        let asked = nearfield_api::Sampling { temperature: Some(1.0), ..Default::default() };
        let settings = completed(&asked, &advised);
        assert_eq!((settings.temperature, settings.top_k), (1.0, TOP_K));
    }

    #[test]
    fn drawn_seeds_differ_and_fit_a_double() {
        let (one, two) = (draw_seed(), draw_seed());
        assert_ne!(one, two);
        assert!(one < 1 << 53 && two < 1 << 53);
    }
}
