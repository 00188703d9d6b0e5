//! The likeliest tokens of a vocabulary, without sorting all of it.

use std::cmp::Ordering;

use crate::request::Sampling;

/// Better logits first; of equal ones the lower id.
fn order(logits: &[f32], one: u32, other: u32) -> Ordering {
    let (a, b) = (logits[one as usize], logits[other as usize]);
    b.partial_cmp(&a).unwrap_or(Ordering::Equal).then(one.cmp(&other))
}

/// The ids of the `count` largest logits, best first.
pub(super) fn best(logits: &[f32], count: usize) -> Vec<u32> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    // Twice as many are collected before the worse half is dropped. Ids ascend, so a later one must be larger than
    // the worst that is kept, not equal, to matter.
    let room = 2 * count;
    let mut ids: Vec<u32> = Vec::with_capacity(room);
    let mut bar = f32::NEG_INFINITY;
    let mut full = false;
    for (id, logit) in (0_u32..).zip(logits) {
        if full && *logit <= bar {
            continue;
        }
        ids.push(id);
        if ids.len() == room {
            ids.select_nth_unstable_by(count - 1, |one, other| order(logits, *one, *other));
            bar = logits[ids[count - 1] as usize];
            ids.truncate(count);
            full = true;
        }
    }
    ids.sort_unstable_by(|one, other| order(logits, *one, *other));
    ids.truncate(count);
    ids
}

/// The tokens that top-k, top-p and min-p leave, best first. `weights` are probabilities relative to the likeliest
/// token's, whose weight is 1.
pub(super) fn likeliest(logits: &[f32], weights: &[f32], settings: &Sampling) -> Vec<u32> {
    let weight = |id: &u32| f64::from(weights[*id as usize]);
    let mut ids = if settings.top_k > 0 && (settings.top_k as usize) < logits.len() {
        best(logits, settings.top_k as usize)
    } else {
        // All tokens below this bar together have less than half of what top-p leaves out, so none of them is kept.
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let bar = (1.0 - f64::from(settings.top_p)) / 2.0 * total / weights.len() as f64;
        let mut ids: Vec<u32> =
            (0..weights.len() as u32).filter(|id| weight(id) >= bar.max(f64::MIN_POSITIVE)).collect();
        ids.sort_unstable_by(|one, other| order(logits, *one, *other));
        ids
    };
    if settings.top_p < 1.0 {
        let total: f64 = match settings.top_k {
            0 => weights.iter().map(|weight| f64::from(*weight)).sum(),
            _ => ids.iter().map(weight).sum(),
        };
        let (mut sum, wanted) = (0.0, f64::from(settings.top_p) * total);
        let kept = ids.iter().position(|id| {
            sum += weight(id);
            sum >= wanted
        });
        ids.truncate(kept.map_or(ids.len(), |last| last + 1));
    }
    let kept = ids.partition_point(|id| weights[*id as usize] >= settings.min_p);
    ids.truncate(kept);
    ids
}
