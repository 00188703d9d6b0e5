//! The likeliest tokens of a vocabulary, without sorting all of it.

use std::cmp::Ordering;

use crate::request::Sampling;

/// Better logits first; of equal ones the lower id.
fn order(logits: &[f32], one: u32, other: u32) -> Ordering {
    let (a, b) = (logits[one as usize], logits[other as usize]);
    b.partial_cmp(&a).unwrap_or(Ordering::Equal).then(one.cmp(&other))
}

/// Elements that a search looks at together: without a branch in between they are compared as vectors.
const STRIDE: usize = 64;

/// The largest logit; those that are suppressed are negative infinity.
pub(super) fn largest_of(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (strides, rest) = logits.as_chunks::<STRIDE>();
    let mut lanes = [f32::NEG_INFINITY; STRIDE];
    for stride in strides {
        for (lane, logit) in lanes.iter_mut().zip(stride) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// How many logits a condition holds for.
#[inline]
fn counted(logits: &[f32], holds: impl Fn(f32) -> bool) -> u32 {
    logits.iter().map(|logit| u32::from(holds(*logit))).sum()
}

/// The lowest id with this logit.
pub(super) fn first_of(logits: &[f32], wanted: f32) -> Option<u32> {
    let strides = logits.chunks(STRIDE);
    let before = strides.take_while(|stride| counted(stride, |logit| logit == wanted) == 0);
    let start = before.count() * STRIDE;
    let place = logits.get(start..)?.iter().position(|logit| *logit == wanted)?;
    u32::try_from(start + place).ok()
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
    for (stride, start) in logits.chunks(STRIDE).zip((0_u32..).step_by(STRIDE)) {
        if full && counted(stride, |logit| logit > bar) == 0 {
            continue;
        }
        for (id, logit) in (start..).zip(stride) {
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
    }
    ids.sort_unstable_by(|one, other| order(logits, *one, *other));
    ids.truncate(count);
    ids
}

/// How many of the candidates, best first, top-p and min-p leave. `weights` are their probabilities relative to the
/// likeliest token's.
pub(super) fn nucleus(weights: &[f32], settings: &Sampling) -> usize {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    cut(weights, total, settings)
}

/// As [`nucleus`], of weights whose whole is known.
fn cut(weights: &[f32], total: f64, settings: &Sampling) -> usize {
    let mut count = weights.len();
    if settings.top_p < 1.0 {
        let (mut sum, wanted) = (0.0, f64::from(settings.top_p) * total);
        let last = weights.iter().position(|weight| {
            sum += f64::from(*weight);
            sum >= wanted
        });
        count = last.map_or(count, |last| last + 1);
    }
    weights[..count].partition_point(|weight| *weight >= settings.min_p)
}

/// The tokens that top-p and min-p leave of a whole vocabulary, best first. `weights` are probabilities relative to the
/// likeliest token's, whose weight is 1.
pub(super) fn likeliest(logits: &[f32], weights: &[f32], settings: &Sampling) -> Vec<u32> {
    // All tokens below this bar together have less than half of what top-p leaves out, so none of them is kept.
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let bar = (1.0 - f64::from(settings.top_p)) / 2.0 * total / weights.len() as f64;
    let bar = bar.max(f64::MIN_POSITIVE);
    let mut ids: Vec<u32> =
        (0_u32..).zip(weights).filter(|(_, weight)| f64::from(**weight) >= bar).map(|(id, _)| id).collect();
    ids.sort_unstable_by(|one, other| order(logits, *one, *other));
    let sorted: Vec<f32> = ids.iter().map(|id| weights[*id as usize]).collect();
    ids.truncate(cut(&sorted, total, settings));
    ids
}
