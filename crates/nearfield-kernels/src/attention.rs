//! Attention over cached keys and values, in the order that "The bits" fix: blocks of 32 keys and segments of 512, both
//! aligned to position 0, so that chunks, pages, windows and threads change nothing.

mod block;

use std::ops::Range;

use crate::key_value::{KeyValueLayout, KeyValueType, PAGE_POSITIONS};
use crate::math;
use crate::set::{KernelSet, multiversion};
use block::{Block, FOUR, HALF_QUANTUM, TOGETHER, attend};

/// Queries times heads up to which the cache is read directly. What is taken out of large heads leaves the first-level
/// cache, so they gain for longer.
const fn most_direct(head_size: usize) -> usize {
    if head_size < 256 { 8 } else { 32 }
}

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
    let query = |state: usize| {
        let at = state / queries.heads * queries.stride + state % queries.heads * size;
        &queries.values[at..][..size]
    };
    // A few queries take the keys from the cache themselves; more share what was taken out once.
    let direct = cache.layout.kind() == KeyValueType::F16
        && set != KernelSet::Scalar
        && size.is_multiple_of(HALF_QUANTUM)
        && states <= most_direct(size);
    let mut block = first_seen / PAGE_POSITIONS;
    while block * PAGE_POSITIONS < end {
        let start = block * PAGE_POSITIONS;
        let page = cache.page(block);
        let ahead = (direct && (block + 1) * PAGE_POSITIONS < end).then(|| {
            let next = cache.page(block + 1).as_ptr().addr();
            next.wrapping_sub(page.as_ptr().addr()).cast_signed()
        });
        let contents = if direct {
            let (keys, values) = cache.layout.head_of(page, head);
            Block::Half { keys, values }
        } else {
            cache.layout.read(set, page, head, &mut scratch.keys, &mut scratch.values);
            Block::Single { keys: &scratch.keys, values: &scratch.values }
        };
        let mut meet = |range: Range<usize>, visible: Range<usize>| {
            // Twelve chains are faster where all queries fit in them, eight where there are many.
            let share = if range.len() <= TOGETHER { TOGETHER } else { FOUR };
            for first in range.clone().step_by(share) {
                let count = share.min(range.end - first);
                let together: [&[f32]; TOGETHER] = std::array::from_fn(|i| query(first + i.min(count - 1)));
                attend(
                    set,
                    contents,
                    // Once for all queries.
                    ahead.filter(|_| first == range.start),
                    &together[..count],
                    visible.clone(),
                    settings,
                    &mut scratch.segment[first..first + count],
                    &mut segment_outputs[first * size..(first + count) * size],
                );
            }
        };
        let visible = |t: usize| {
            let position = queries.first_position + t;
            let from = settings.window.map_or(0, |window| (position + 1).saturating_sub(window));
            from.clamp(start, start + PAGE_POSITIONS) - start
                ..(position + 1).clamp(start, start + PAGE_POSITIONS) - start
        };
        if visible(0).end == PAGE_POSITIONS && visible(queries.count - 1).start == 0 {
            meet(0..states, 0..PAGE_POSITIONS);
        } else {
            for t in 0..queries.count {
                let visible = visible(t);
                if visible.start < visible.end {
                    meet(t * queries.heads..(t + 1) * queries.heads, visible);
                }
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
        let layout = KeyValueLayout::new(kind, HEADS, SIZE).with_scales([0.003, 0.007]);
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
        for kind in
            [KeyValueType::F32, KeyValueType::F16, KeyValueType::Bf16, KeyValueType::Q8, KeyValueType::F8]
        {
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
            (KeyValueType::F8, 8e-2),
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
