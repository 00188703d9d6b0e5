//! Attention on every set, for every type of cached keys and values.

use nearfield_kernels::{
    AttentionScratch, AttentionSettings, KernelSet, KeyValueLayout, KeyValueType, PAGE_POSITIONS,
    PagedKeyValues, Queries, attention,
};

use crate::products::Random;

const KINDS: [KeyValueType; 5] =
    [KeyValueType::F32, KeyValueType::F16, KeyValueType::Bf16, KeyValueType::Q8, KeyValueType::F8];

/// Keys and values of one key-value head, with queries of some heads for the last positions.
struct Case {
    size: usize,
    heads: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    count: usize,
    settings: AttentionSettings,
}

impl Case {
    fn random(size: usize, heads: usize, length: usize, count: usize, random: &mut Random) -> Self {
        let mut numbers = |count: usize| (0..count).map(|_| random.unit() * 3.0).collect::<Vec<_>>();
        Self {
            size,
            heads,
            keys: numbers(length * size),
            values: numbers(length * size),
            queries: numbers(count * heads * size),
            count,
            settings: AttentionSettings { scale: 0.25, window: None, soft_cap: None },
        }
    }

    fn run(&self, set: KernelSet, kind: KeyValueType) -> Vec<u32> {
        let length = self.keys.len() / self.size;
        let layout = KeyValueLayout::new(kind, 1, self.size).with_scales([0.01, 0.02]);
        let blocks = length.div_ceil(PAGE_POSITIONS);
        let mut pages = vec![0; blocks * layout.page_bytes()];
        // Pages in backward order.
        let table: Vec<u32> = (0..blocks as u32).rev().collect();
        let rows = self.keys.chunks_exact(self.size).zip(self.values.chunks_exact(self.size));
        for (position, (key, value)) in rows.enumerate() {
            let page = table[position / PAGE_POSITIONS] as usize * layout.page_bytes();
            layout.write(&mut pages[page..], position % PAGE_POSITIONS, 0, key, value);
        }
        let cache = PagedKeyValues { pages: &pages, table: &table, layout };
        let stride = self.heads * self.size;
        let queries = Queries {
            values: &self.queries,
            stride,
            count: self.count,
            first_position: length - self.count,
            heads: self.heads,
        };
        let mut out = vec![0_u32; self.count * stride];
        attention(set, &cache, 0, &queries, &self.settings, &mut AttentionScratch::default(), |t, h, row| {
            for (out, value) in out[t * stride + h * self.size..].iter_mut().zip(row) {
                *out = if value.is_nan() { u32::MAX } else { value.to_bits() };
            }
        });
        out
    }

    /// Asserts that every set gives the definition's bits, and returns them.
    fn equal_on_every_set(&self, what: &str, kind: KeyValueType) -> Vec<u32> {
        let wanted = self.run(KernelSet::Scalar, kind);
        for set in KernelSet::available() {
            assert!(self.run(set, kind) == wanted, "{what}, {kind:?} on {}", set.name());
        }
        wanted
    }
}

#[test]
fn every_head_size_and_length() {
    let mut random = Random(53);
    let shapes = [
        (1, 1, 1),
        (8, 31, 2),
        (24, 32, 5),
        (40, 33, 9),
        (64, 511, 3),
        (80, 512, 2),
        (96, 513, 4),
        (128, 700, 1),
        (256, 70, 3),
    ];
    for (size, length, count) in shapes {
        for heads in [1, 3, 4] {
            let mut case = Case::random(size, heads, length, count, &mut random);
            for (window, soft_cap) in
                [(None, None), (Some(1), None), (Some(40), Some(1.5)), (None, Some(30.0))]
            {
                case.settings = AttentionSettings { scale: 0.25, window, soft_cap };
                for kind in KINDS {
                    let got =
                        case.equal_on_every_set(&format!("{size} {length} {window:?} {soft_cap:?}"), kind);
                    assert!(got.iter().all(|bits| f32::from_bits(*bits).is_finite()));
                }
            }
        }
    }
}

#[test]
fn extreme_scores_are_taken_alike() {
    let mut random = Random(59);
    for kind in KINDS {
        for magnitude in [1e30_f32, 1e4, 1e-30, f32::from_bits(9)] {
            for soft_cap in [None, Some(20.0)] {
                let mut case = Case::random(32, 2, 90, 3, &mut random);
                case.keys.iter_mut().skip(40).step_by(7).for_each(|key| *key *= magnitude);
                case.values.iter_mut().skip(11).step_by(5).for_each(|value| *value *= magnitude);
                case.queries.iter_mut().step_by(3).for_each(|query| *query *= magnitude);
                case.settings.soft_cap = soft_cap;
                case.equal_on_every_set(&format!("{magnitude:e}"), kind);
            }
        }
    }
}

#[test]
fn numbers_that_are_none_are_seen_by_those_who_see_their_position_alone() {
    let mut random = Random(61);
    let (size, length, count) = (16, 100, 60);
    for kind in KINDS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for in_keys in [true, false] {
                let mut case = Case::random(size, 1, length, count, &mut random);
                case.settings.window = Some(20);
                let clean = case.equal_on_every_set("clean", kind);
                let position = 65;
                let place = position * size + 3;
                if in_keys {
                    case.keys[place] = bad;
                } else {
                    case.values[place] = bad;
                }
                let got = case.equal_on_every_set("not a number", kind);
                for t in 0..count {
                    let seen = (position..position + 20).contains(&(length - count + t));
                    let same = got[t * size..][..size] == clean[t * size..][..size];
                    // A key of -inf or inf may leave a query untouched: its weight can be 0 there.
                    assert!(
                        if seen { !same || (in_keys && !bad.is_nan()) } else { same },
                        "{kind:?} {bad} at {t}"
                    );
                }
            }
        }
    }
}
