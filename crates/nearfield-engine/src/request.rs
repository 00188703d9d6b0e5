//! What callers ask an engine for.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::CacheDomain;
use crate::error::EngineError;

/// Most alternatives that a token's log-probabilities may list.
pub const MAX_ALTERNATIVES: u8 = 20;

/// A request: a prompt, and how to continue it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generate {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Most tokens to generate for each choice, at least 1; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// What the answer is expected to be, as far as the caller knows. Where it is right, the answer comes sooner; it never
    /// comes out different.
    pub prediction: Vec<u32>,
    /// How each token is picked.
    pub sampling: Sampling,
    /// Tokens that end a choice. They are not handed out.
    pub stop_tokens: Vec<u32>,
    /// With `Some(n)`, each token comes with its log-probability and the `n` likeliest tokens (at most 20) at its
    /// place.
    pub logprobs: Option<u8>,
    /// Independent continuations of the prompt, at least 1; 0 is taken for 1.
    pub choices: u32,
    /// With whom the work on the prompt may be shared.
    pub cache_domain: CacheDomain,
}

/// How a token is picked from the logits. The default picks the likeliest.
///
/// In this order: repetition penalty, presence and frequency penalties, bias, suppressed tokens; then, at a temperature
/// above 0, the temperature, top-k, top-p, min-p, and a draw. Equal scores go to the lower id.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits, 0 to 100; at 0 the likeliest token is taken.
    pub temperature: f32,
    /// Keeps the `k` likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the likeliest tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this many times as probable as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occur in the prompt or the answer; 1 does
    /// nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that occurs in the answer.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time that it occurs in the answer.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// The same seed, prompt and settings give the same tokens; `None` draws a seed.
    pub seed: Option<u64>,
    /// Tokens that are never picked: those that the tokenizer does not know, or that the model's settings name.
    pub suppressed: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
            suppressed: Vec::new(),
        }
    }
}

impl Generate {
    /// Checks everything that does not depend on the engine's load.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), EngineError> {
        if self.tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let fed = self.tokens.iter().chain(self.sampling.logit_bias.keys()).chain(&self.prediction);
        if let Some(token) = fed.copied().find(|token| *token as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        ensure(self.max_tokens != Some(0), "max_tokens", "at least 1")?;
        ensure(self.logprobs.is_none_or(|n| n <= MAX_ALTERNATIVES), "logprobs", "from 0 to 20")?;
        self.sampling.check(vocabulary)
    }
}

impl Sampling {
    fn check(&self, vocabulary: usize) -> Result<(), EngineError> {
        ensure((0.0..=100.0).contains(&self.temperature), "temperature", "from 0 to 100")?;
        ensure(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "above 0 and at most 1")?;
        ensure((0.0..=1.0).contains(&self.min_p), "min_p", "from 0 to 1")?;
        let repetition = (0.01..=100.0).contains(&self.repetition_penalty);
        ensure(repetition, "repetition_penalty", "from 0.01 to 100")?;
        ensure(self.presence_penalty.abs() <= 100.0, "presence_penalty", "from -100 to 100")?;
        ensure(self.frequency_penalty.abs() <= 100.0, "frequency_penalty", "from -100 to 100")?;
        let bias = self.logit_bias.values().all(|bias| bias.abs() <= 1000.0);
        ensure(bias, "logit_bias", "from -1000 to 1000")?;
        let suppressed: BTreeSet<_> =
            self.suppressed.iter().filter(|id| (**id as usize) < vocabulary).collect();
        ensure(suppressed.len() < vocabulary, "suppressed", "a list that leaves at least one token")
    }
}

/// NaN fails every comparison, so it is refused too.
fn ensure(holds: bool, name: &'static str, expected: &'static str) -> Result<(), EngineError> {
    if holds { Ok(()) } else { Err(EngineError::InvalidSetting { name, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Generate);

    fn checked(change: Change) -> Result<(), EngineError> {
        let mut request = Generate { tokens: vec![1, 2], ..Generate::default() };
        change(&mut request);
        request.check(10)
    }

    #[test]
    fn settings_outside_their_range_are_refused_by_name() {
        let cases: [(&str, Change); 14] = [
            ("max_tokens", |r| r.max_tokens = Some(0)),
            ("logprobs", |r| r.logprobs = Some(21)),
            ("temperature", |r| r.sampling.temperature = -0.1),
            ("temperature", |r| r.sampling.temperature = f32::NAN),
            ("top_p", |r| r.sampling.top_p = 0.0),
            ("top_p", |r| r.sampling.top_p = 1.1),
            ("min_p", |r| r.sampling.min_p = f32::INFINITY),
            ("repetition_penalty", |r| r.sampling.repetition_penalty = 0.0),
            ("presence_penalty", |r| r.sampling.presence_penalty = f32::NAN),
            ("frequency_penalty", |r| r.sampling.frequency_penalty = 1e30),
            ("logit_bias", |r| _ = r.sampling.logit_bias.insert(3, f32::INFINITY)),
            ("logit_bias", |r| _ = r.sampling.logit_bias.insert(3, f32::NAN)),
            ("suppressed", |r| r.sampling.suppressed = (0..12).collect()),
            ("top_p", |r| r.sampling.top_p = f32::NAN),
        ];
        for (wanted, change) in cases {
            match checked(change) {
                Err(EngineError::InvalidSetting { name, .. }) => assert_eq!(name, wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
        assert!(checked(|_| ()).is_ok());
        assert!(checked(|r| r.sampling.suppressed = vec![9, 10, 4_000_000_000]).is_ok());
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_refused() {
        assert!(matches!(checked(|r| r.tokens.clear()), Err(EngineError::EmptyPrompt)));
        let unknown = |result| matches!(result, Err(EngineError::UnknownToken { token: 10, vocabulary: 10 }));
        assert!(unknown(checked(|r| r.tokens.push(10))));
        assert!(unknown(checked(|r| _ = r.sampling.logit_bias.insert(10, 1.0))));
        assert!(unknown(checked(|r| r.prediction.push(10))));
    }
}
