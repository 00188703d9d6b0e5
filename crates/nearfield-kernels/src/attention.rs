//! Attention over cached keys and values, in the order that "The bits" fix: blocks of 32 keys and segments of 512, both
//! aligned to position 0, so that chunks, pages, windows and threads change nothing.

use crate::key_value::{KeyValueLayout, PAGE_POSITIONS};
use crate::math;
use crate::set::{KernelSet, multiversion};
use crate::vector::{reduce_tree, soft_cap_body};

/// Positions whose online softmax is kept apart and merged afterwards.
pub const SEGMENT_POSITIONS: usize = 512;

/// One sequence's cached keys and values in one layer.
#[derive(Clone, Copy, Debug)]
pub struct PagedKeyValues<'a> {
    /// The layer's pages, one after the other.
    pub pages: &'a [u8],
    /// The sequence's page table: page of positions 0..32, 32..64, ...
    pub table: &'a [u32],
    /// Their layout.
    pub layout: KeyValueLayout,
}

impl PagedKeyValues<'_> {
    fn page(&self, block: usize) -> &[u8] {
        let bytes = self.layout.page_bytes();
        &self.pages[self.table[block] as usize * bytes..][..bytes]
    }
}

/// How scores are formed.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSettings {
    /// Multiplies every score.
    pub scale: f32,
    /// Position i sees j with `i - window < j <= i`.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Consecutive queries of one sequence, for some of the query heads that share one key-value head.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// Query `t` (position `first_position + t`), head `h` starts at `t * stride + h * head_size`.
    pub values: &'a [f32],
    /// Elements from one query to the next.
    pub stride: usize,
    /// Number of queries.
    pub count: usize,
    /// Position of the first query.
    pub first_position: usize,
    /// Query heads in `values` to work on, from 0.
    pub heads: usize,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Of each head of the group.
    scores: Vec<[f32; PAGE_POSITIONS]>,
    segment: Vec<State>,
    total: Vec<State>,
    outputs: Vec<f32>,
}

/// Running maximum and sum of an online softmax; empty while the sum has no key.
#[derive(Clone, Copy, Debug)]
struct State {
    maximum: f32,
    sum: f32,
    filled: bool,
}

const EMPTY: State = State { maximum: f32::NEG_INFINITY, sum: 0.0, filled: false };

/// Attends over the cache with key-value head `head`. The output of query `t`, head `h` is handed to `emit(t, h, out)`.
pub fn attention(
    set: KernelSet,
    cache: &PagedKeyValues<'_>,
    head: usize,
    queries: &Queries<'_>,
    settings: &AttentionSettings,
    scratch: &mut AttentionScratch,
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let size = cache.layout.head_size();
    let states = queries.count * queries.heads;
    scratch.keys.resize(size * PAGE_POSITIONS, 0.0);
    scratch.values.resize(size * PAGE_POSITIONS, 0.0);
    scratch.outputs.clear();
    scratch.outputs.resize(2 * states * size, 0.0);
    scratch.segment.clear();
    scratch.segment.resize(states, EMPTY);
    scratch.total.clear();
    scratch.total.resize(states, EMPTY);
    let end = queries.first_position + queries.count;
    let first_seen = settings.window.map_or(0, |window| (queries.first_position + 1).saturating_sub(window));
    let (segment_outputs, total_outputs) = scratch.outputs.split_at_mut(states * size);
    let mut block = first_seen / PAGE_POSITIONS;
    while block * PAGE_POSITIONS < end {
        let start = block * PAGE_POSITIONS;
        cache.layout.read(set, cache.page(block), head, &mut scratch.keys, &mut scratch.values);
        for t in 0..queries.count {
            let position = queries.first_position + t;
            let from = settings.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let visible = from.max(start)..(position + 1).min(start + PAGE_POSITIONS);
            if visible.is_empty() {
                continue;
            }
            let heads = &queries.values[t * queries.stride..][..queries.heads * size];
            scratch.scores.resize(queries.heads, [0.0; PAGE_POSITIONS]);
            score_block(set, heads, &scratch.keys, size, &mut scratch.scores);
            for h in 0..queries.heads {
                let state = t * queries.heads + h;
                attend_block(
                    set,
                    &mut scratch.scores[h],
                    &scratch.values,
                    visible.start - start,
                    visible.end - start,
                    settings,
                    &mut scratch.segment[state],
                    &mut segment_outputs[state * size..][..size],
                );
            }
        }
        block += 1;
        if (block * PAGE_POSITIONS).is_multiple_of(SEGMENT_POSITIONS) || block * PAGE_POSITIONS >= end {
            for state in 0..states {
                merge(
                    set,
                    &mut scratch.total[state],
                    &mut total_outputs[state * size..][..size],
                    &mut scratch.segment[state],
                    &mut segment_outputs[state * size..][..size],
                );
            }
        }
    }
    for t in 0..queries.count {
        for h in 0..queries.heads {
            let state = t * queries.heads + h;
            let output = &mut total_outputs[state * size..][..size];
            let sum = scratch.total[state].sum;
            for value in output.iter_mut() {
                *value /= sum;
            }
            emit(t, h, output);
        }
    }
}

multiversion! {
    fn score_block / score_block_avx2 / score_block_avx512(
        queries: &[f32], keys: &[f32], size: usize, scores: &mut [[f32; PAGE_POSITIONS]],
    ) = score_block_body;
}

/// Products of the queries of a group of heads, one after the other, with the keys of a block.
#[inline(always)]
fn score_block_body(queries: &[f32], keys: &[f32], size: usize, scores: &mut [[f32; PAGE_POSITIONS]]) {
    // Several heads at once, so that the chains of one do not wait alone.
    let (fours, rest) = scores.as_chunks_mut::<4>();
    let done = 4 * fours.len();
    for (i, four) in fours.iter_mut().enumerate() {
        *four = score_heads::<4>(&queries[4 * i * size..][..4 * size], keys, size);
    }
    let queries = &queries[done * size..];
    match rest {
        [a, b, c] => [*a, *b, *c] = score_heads::<3>(queries, keys, size),
        [a, b] => [*a, *b] = score_heads::<2>(queries, keys, size),
        [a] => [*a] = score_heads::<1>(queries, keys, size),
        _ => {}
    }
}

#[inline(always)]
fn score_heads<const N: usize>(queries: &[f32], keys: &[f32], size: usize) -> [[f32; PAGE_POSITIONS]; N] {
    let mut scores = [[0.0_f32; PAGE_POSITIONS]; N];
    let queries: [&[f32]; N] = std::array::from_fn(|i| &queries[i * size..][..size]);
    for (d, row) in keys.as_chunks::<PAGE_POSITIONS>().0.iter().enumerate().take(size) {
        for i in 0..N {
            for (score, key) in scores[i].iter_mut().zip(row) {
                *score = key.mul_add(queries[i][d], *score);
            }
        }
    }
    scores
}

multiversion! {
    fn attend_block / attend_block_avx2 / attend_block_avx512(
        scores: &mut [f32; PAGE_POSITIONS], values: &[f32], from: usize, to: usize, settings: &AttentionSettings,
        state: &mut State, output: &mut [f32],
    ) = attend_block_body;
}

/// One query, whose products with the keys of a block are in `scores`, against the block: keys `from..to` are visible.
#[inline(always)]
fn attend_block_body(
    scores: &mut [f32; PAGE_POSITIONS],
    values: &[f32],
    from: usize,
    to: usize,
    settings: &AttentionSettings,
    state: &mut State,
    output: &mut [f32],
) {
    for score in scores.iter_mut() {
        *score *= settings.scale;
    }
    if let Some(cap) = settings.soft_cap {
        soft_cap_body(scores, cap);
    }
    let mut largest = state.maximum;
    for (j, score) in scores.iter_mut().enumerate() {
        let masked = j < from || j >= to;
        *score = if masked { f32::NEG_INFINITY } else { *score };
        largest = if *score > largest { *score } else { largest };
    }
    let correction = math::exp(state.maximum - largest);
    let mut weights = [0.0_f32; PAGE_POSITIONS];
    for (weight, score) in weights.iter_mut().zip(scores.iter()) {
        *weight = math::exp(*score - largest);
    }
    let mut lanes = [0.0_f32; 16];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = weights[i] + weights[16 + i];
    }
    state.sum = state.sum.mul_add(correction, reduce_tree(lanes));
    state.maximum = largest;
    state.filled = true;
    let size = output.len();
    let (tiles, rest) = output.as_chunks_mut::<OUTPUT_TILE>();
    for (tile, out) in tiles.iter_mut().enumerate() {
        // A copy that the compiler keeps in registers from key to key.
        let mut sums = out.map(|value| value * correction);
        for (j, weight) in weights.iter().enumerate().take(to).skip(from) {
            let row = &values[j * size + tile * OUTPUT_TILE..][..OUTPUT_TILE];
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = value.mul_add(*weight, *sum);
            }
        }
        *out = sums;
    }
    let done = size - rest.len();
    for (d, out) in rest.iter_mut().enumerate() {
        let mut sum = *out * correction;
        for (j, weight) in weights.iter().enumerate().take(to).skip(from) {
            sum = values[j * size + done + d].mul_add(*weight, sum);
        }
        *out = sum;
    }
}

/// Components of an output that are summed together.
const OUTPUT_TILE: usize = 64;

multiversion! {
    fn merge / merge_avx2 / merge_avx512(
        total: &mut State, total_output: &mut [f32], segment: &mut State, segment_output: &mut [f32],
    ) = merge_body;
}

/// Adds a finished segment to the total and empties it.
#[inline(always)]
fn merge_body(total: &mut State, total_output: &mut [f32], segment: &mut State, segment_output: &mut [f32]) {
    if !segment.filled {
        return;
    }
    if total.filled {
        let largest = if segment.maximum > total.maximum { segment.maximum } else { total.maximum };
        let (old, new) = (math::exp(total.maximum - largest), math::exp(segment.maximum - largest));
        total.sum = total.sum.mul_add(old, segment.sum * new);
        total.maximum = largest;
        for (total, segment) in total_output.iter_mut().zip(segment_output.iter()) {
            *total = total.mul_add(old, segment * new);
        }
    } else {
        *total = *segment;
        total_output.copy_from_slice(segment_output);
    }
    *segment = EMPTY;
    segment_output.fill(0.0);
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the library's functions are what ours are compared with")]
mod tests {
    use super::*;
    use crate::key_value::KeyValueType;

    const SIZE: usize = 24;
    const HEADS: usize = 2;

    fn value(seed: usize) -> f32 {
        ((seed * 7919 + 31) % 2003) as f32 / 900.0 - 1.1
    }

    struct Cache {
        pages: Vec<u8>,
        table: Vec<u32>,
        layout: KeyValueLayout,
    }

    /// `length` positions, pages in a scattered order.
    fn cache(kind: KeyValueType, length: usize) -> Cache {
        let layout = KeyValueLayout::new(kind, HEADS, SIZE);
        let count = length.div_ceil(PAGE_POSITIONS);
        let table: Vec<u32> = (0..count).map(|i| ((i * 7 + 3) % (count * 8 + 1)) as u32).collect();
        let most = table.iter().max().map_or(0, |most| *most as usize + 1);
        let mut pages = vec![0; most * layout.page_bytes()];
        for position in 0..length {
            let page = &mut pages[table[position / PAGE_POSITIONS] as usize * layout.page_bytes()..];
            for head in 0..HEADS {
                let key: Vec<f32> = (0..SIZE).map(|d| value(position * 97 + d * 3 + head)).collect();
                let row: Vec<f32> = (0..SIZE).map(|d| value(position * 31 + d * 11 + head + 5)).collect();
                layout.write(page, position % PAGE_POSITIONS, head, &key, &row);
            }
        }
        Cache { pages, table, layout }
    }

    fn attend(
        set: KernelSet,
        cache: &Cache,
        first: usize,
        count: usize,
        settings: &AttentionSettings,
    ) -> Vec<f32> {
        let stride = 2 * SIZE;
        let values: Vec<f32> =
            (0..count * stride).map(|i| value((first + i / stride) * 1009 + i % stride)).collect();
        let mut out = vec![0.0; count * stride];
        let paged = PagedKeyValues { pages: &cache.pages, table: &cache.table, layout: cache.layout };
        let queries = Queries { values: &values, stride, count, first_position: first, heads: 2 };
        attention(set, &paged, 1, &queries, settings, &mut AttentionScratch::default(), |t, h, row| {
            out[t * stride + h * SIZE..][..SIZE].copy_from_slice(row);
        });
        out
    }

    #[test]
    fn chunks_and_sets_change_nothing() {
        let length = 1_150;
        for kind in [KeyValueType::F32, KeyValueType::F16, KeyValueType::Bf16, KeyValueType::Q8] {
            let cache = cache(kind, length);
            for (window, soft_cap) in [(None, None), (Some(100), None), (Some(33), Some(2.0))] {
                let settings = AttentionSettings { scale: 0.3, window, soft_cap };
                let whole = attend(KernelSet::Scalar, &cache, 1_000, 150, &settings);
                for set in KernelSet::available() {
                    let mut pieces = Vec::new();
                    for (first, count) in [(1_000, 1), (1_001, 37), (1_038, 2), (1_040, 110)] {
                        pieces.extend(attend(set, &cache, first, count, &settings));
                    }
                    assert!(pieces == whole, "{} {kind:?} {window:?}", set.name());
                }
            }
        }
    }

    #[test]
    fn it_is_softmax_attention() {
        let length = 600;
        let tolerances = [
            (KeyValueType::F32, 1e-6),
            (KeyValueType::F16, 2e-3),
            (KeyValueType::Bf16, 2e-2),
            (KeyValueType::Q8, 2e-2),
        ];
        for (kind, tolerance) in tolerances {
            let cache = cache(kind, length);
            for window in [None, Some(40)] {
                let settings = AttentionSettings { scale: 0.3, window, soft_cap: None };
                let got = attend(KernelSet::Scalar, &cache, 570, 30, &settings);
                for t in 0..30 {
                    let position = 570 + t;
                    let from = window.map_or(0, |window| position + 1 - window);
                    let weights: Vec<f64> = (from..=position)
                        .map(|p| {
                            let score: f64 = (0..SIZE)
                                .map(|d| {
                                    f64::from(value(p * 97 + d * 3 + 1))
                                        * f64::from(value(position * 1009 + d))
                                })
                                .sum();
                            (0.3 * score).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for d in 0..SIZE {
                        let wanted: f64 = weights
                            .iter()
                            .zip(from..)
                            .map(|(w, p)| w * f64::from(value(p * 31 + d * 11 + 6)))
                            .sum::<f64>()
                            / sum;
                        let error = (f64::from(got[t * 2 * SIZE + d]) - wanted).abs();
                        assert!(error < tolerance, "{kind:?} at {t}, {d}: off by {error}");
                    }
                }
            }
        }
    }
}
