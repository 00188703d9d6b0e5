//! What penalties look back on.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::Generate;

/// Tokens of a prompt and of the answer so far; empty when no penalty asks for them.
#[derive(Debug, Default)]
pub(crate) struct History {
    keeps: bool,
    prompt: BTreeSet<u32>,
    generated: BTreeMap<u32, u32>,
}

impl History {
    pub(crate) fn new(request: &Generate) -> Self {
        let settings = &request.sampling;
        let looks_at_prompt = settings.repetition_penalty != 1.0;
        let keeps = looks_at_prompt || settings.presence_penalty != 0.0 || settings.frequency_penalty != 0.0;
        let prompt = if looks_at_prompt { request.tokens.iter().copied().collect() } else { BTreeSet::new() };
        Self { keeps, prompt, generated: BTreeMap::new() }
    }

    /// Notes a token of the answer.
    pub(crate) fn add(&mut self, token: u32) {
        if self.keeps {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    /// Tokens that occur in the prompt or the answer, each once.
    pub(crate) fn seen(&self) -> impl Iterator<Item = u32> {
        let fresh = self.generated.keys().filter(|token| !self.prompt.contains(token));
        self.prompt.iter().chain(fresh).copied()
    }

    /// Tokens of the answer and how often they occur in it.
    pub(crate) fn generated(&self) -> impl Iterator<Item = (u32, u32)> {
        self.generated.iter().map(|(token, count)| (*token, *count))
    }
}
