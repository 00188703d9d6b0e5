//! Picks tokens from logits.
//!
//! Every sum runs in a fixed order and every function is our own, so that the same logits, settings and seed give the
//! same token on every machine.

mod candidates;
mod history;
mod random;

use nearfield_kernels::{KernelSet, math, vector};

use crate::request::Sampling;
use candidates::{best, first_of, largest_of, likeliest, nucleus};

pub(crate) use history::History;
pub(crate) use random::draw;

/// Buffers for picking, as long as the vocabulary.
pub(crate) struct Sampler {
    set: KernelSet,
    /// Logits after penalties and bias.
    changed: Vec<f32>,
    /// Logits of the tokens that top-k leaves.
    kept: Vec<f32>,
    /// Probabilities relative to the likeliest token's.
    weights: Vec<f32>,
}

impl Sampler {
    pub(crate) fn new(set: KernelSet) -> Self {
        Self { set, changed: Vec::new(), kept: Vec::new(), weights: Vec::new() }
    }

    /// Picks a token; `drawn` in `0.0 .. 1.0` decides where chance does. `None` if a logit is not finite.
    pub(crate) fn pick(
        &mut self,
        logits: &[f32],
        settings: &Sampling,
        history: &History,
        drawn: f64,
    ) -> Option<u32> {
        let mut largest = vector::largest(self.set, logits)?;
        let Self { set, changed, kept, weights } = self;
        let mut logits = logits;
        if changes_logits(settings) {
            changed.clear();
            changed.extend_from_slice(logits);
            change(changed, settings, history);
            largest = largest_of(changed);
            logits = changed;
        }
        if settings.temperature == 0.0 {
            return first_of(logits, largest);
        }
        let few = settings.top_k > 0 && (settings.top_k as usize) < logits.len();
        let ids = few.then(|| best(logits, settings.top_k as usize));
        // Of a few candidates only their own weights are worked out.
        let logits = match &ids {
            Some(ids) => {
                kept.clear();
                kept.extend(ids.iter().map(|id| logits[*id as usize]));
                &*kept
            }
            None => logits,
        };
        weights.resize(logits.len(), 0.0);
        vector::exp_of_ratio(*set, logits, largest, settings.temperature, weights);
        let weights = &*weights;
        if let Some(ids) = ids {
            let count = nucleus(weights, settings);
            return pick_weighted(ids.into_iter().zip(weights.iter().copied()).take(count), drawn);
        }
        if settings.top_k == 0 && settings.top_p == 1.0 {
            let kept = (0_u32..).zip(weights).filter(|(_, weight)| **weight >= settings.min_p);
            return pick_weighted(kept.map(|(id, weight)| (id, *weight)), drawn);
        }
        let candidates = likeliest(logits, weights, settings);
        pick_weighted(candidates.iter().map(|id| (*id, weights[*id as usize])), drawn)
    }

    /// The log-probability of a token before any setting is applied, and the `count` likeliest tokens with theirs.
    pub(crate) fn log_probabilities(
        &mut self,
        logits: &[f32],
        token: u32,
        count: usize,
    ) -> (f32, Vec<(u32, f32)>) {
        let largest = largest_of(logits);
        self.weights.resize(logits.len(), 0.0);
        vector::exp_of_ratio(self.set, logits, largest, 1.0, &mut self.weights);
        let sum: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        let log_sum = math::ln_f64(sum);
        let log_probability =
            |id: u32| (f64::from(logits[id as usize]) - f64::from(largest) - log_sum) as f32;
        let alternatives = best(logits, count).into_iter().map(|id| (id, log_probability(id))).collect();
        (log_probability(token), alternatives)
    }
}

fn changes_logits(settings: &Sampling) -> bool {
    settings.repetition_penalty != 1.0
        || settings.presence_penalty != 0.0
        || settings.frequency_penalty != 0.0
        || !settings.logit_bias.is_empty()
        || !settings.suppressed.is_empty()
}

/// Applies penalties, bias and suppression.
fn change(logits: &mut [f32], settings: &Sampling, history: &History) {
    let penalty = settings.repetition_penalty;
    if penalty != 1.0 {
        for id in history.seen() {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    for (id, count) in history.generated() {
        logits[id as usize] -= settings.presence_penalty + settings.frequency_penalty * count as f32;
    }
    for (id, bias) in &settings.logit_bias {
        logits[*id as usize] += bias;
    }
    for id in &settings.suppressed {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The first token at which the running sum of weights exceeds the drawn part of the whole.
fn pick_weighted(weights: impl Iterator<Item = (u32, f32)> + Clone, drawn: f64) -> Option<u32> {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    let (mut sum, mut last) = (0.0, None);
    for (id, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        sum += f64::from(weight);
        last = Some(id);
        if sum > drawn * total {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests;
