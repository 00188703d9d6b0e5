//! The recurrence of gated delta networks, one step a token: the state decays, is corrected towards the new value at
//! the new key, and is read at the query. Decoding and prompts run the same steps.

use crate::math;
use crate::set::{KernelSet, multiversion};
use crate::vector::{LANES, reduce_tree};

/// Columns of a state that go through all tokens together; at 128 rows they fill half of a first-level cache.
const COLUMNS: usize = 32;

/// Values of this size, which all published models have, go through few tokens whole and in place.
const WIDE: usize = 128;

/// Tokens up to which this is faster than to take columns out.
const FEW: usize = 4;

/// Added to the sum of squares of a query or key.
const EPSILON: f32 = 1e-6;

/// Consecutive tokens of one head of one sequence. Token `t`'s query starts at `queries[t * stride]`, and so on.
#[derive(Clone, Copy, Debug)]
pub struct DeltaTokens<'a> {
    /// Queries of `key_size`, normed.
    pub queries: &'a [f32],
    /// Keys of `key_size`, normed.
    pub keys: &'a [f32],
    /// Values of `value_size`.
    pub values: &'a [f32],
    /// Elements from one token to the next in the three above.
    pub stride: usize,
    /// Strength of the correction, from 0 to 1, for token `t` at `t * gate_stride`.
    pub strengths: &'a [f32],
    /// What the state is multiplied by, from 0 to 1, likewise.
    pub decays: &'a [f32],
    /// Elements from one token to the next in strengths and decays.
    pub gate_stride: usize,
    /// Number of tokens.
    pub count: usize,
    /// Elements of a query or key.
    pub key_size: usize,
    /// Elements of a value.
    pub value_size: usize,
}

/// Runs one head's recurrence. For each token, with the state `S[key_size][value_size]`:
///
/// - `S = decay * S`, then `r = S^T k`, rows ascending by fused multiply-adds;
/// - `d = strength * (v - r)`;
/// - `S = k d^T + S`, each by one fused multiply-add, then `o = S^T q`, rows ascending.
///
/// `emit(token, column, values)` receives the outputs in runs of columns.
///
/// # Panics
/// If `state` or the tokens are shorter than the sizes say.
pub fn delta_net(
    set: KernelSet,
    tokens: &DeltaTokens<'_>,
    state: &mut [f32],
    scratch: &mut Vec<f32>,
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    prepare(tokens, state, scratch);
    if tokens.value_size == WIDE && tokens.count <= FEW {
        let outputs = &mut scratch[..tokens.count * WIDE];
        whole(set, tokens, state, outputs);
        for (token, output) in outputs.as_chunks::<WIDE>().0.iter().enumerate() {
            emit(token, 0, output);
        }
        return;
    }
    for first in (0..tokens.value_size).step_by(COLUMNS) {
        let outputs = run_columns(set, tokens, state, first, scratch);
        outputs.emit(first, &mut emit);
        let width = tokens.value_size;
        for (row, columns) in outputs.slice.as_chunks::<COLUMNS>().0.iter().enumerate() {
            let to = &mut state[row * width + first..];
            match to.first_chunk_mut() {
                Some(to) if outputs.used == COLUMNS => *to = *columns,
                _ => to[..outputs.used].copy_from_slice(&columns[..outputs.used]),
            }
        }
    }
}

/// The outputs of [`delta_net`] for tokens that may be taken back: the state stays as it was before them.
///
/// # Panics
/// As [`delta_net`].
pub fn delta_net_ahead(
    set: KernelSet,
    tokens: &DeltaTokens<'_>,
    state: &[f32],
    scratch: &mut Vec<f32>,
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    prepare(tokens, state, scratch);
    for first in (0..tokens.value_size).step_by(COLUMNS) {
        run_columns(set, tokens, state, first, scratch).emit(first, &mut emit);
    }
}

/// What comes of some columns: their state afterwards, `[key_size][COLUMNS]`, and outputs `[count][COLUMNS]`.
struct Columns<'a> {
    slice: &'a [f32],
    outputs: &'a [f32],
    used: usize,
}

impl Columns<'_> {
    fn emit(&self, first: usize, emit: &mut impl FnMut(usize, usize, &[f32])) {
        for (token, output) in self.outputs.as_chunks::<COLUMNS>().0.iter().enumerate() {
            emit(token, first, &output[..self.used]);
        }
    }
}

fn prepare(tokens: &DeltaTokens<'_>, state: &[f32], scratch: &mut Vec<f32>) {
    assert_eq!(state.len(), tokens.key_size * tokens.value_size, "a state is [key_size][value_size]");
    scratch.resize(((tokens.key_size + tokens.count) * COLUMNS).max(tokens.count.min(FEW) * WIDE), 0.0);
}

/// Takes the columns from `first` on through all tokens, on a copy.
fn run_columns<'a>(
    set: KernelSet,
    tokens: &DeltaTokens<'_>,
    state: &[f32],
    first: usize,
    scratch: &'a mut [f32],
) -> Columns<'a> {
    let (slice, outputs) = scratch.split_at_mut(tokens.key_size * COLUMNS);
    let outputs = &mut outputs[..tokens.count * COLUMNS];
    let used = COLUMNS.min(tokens.value_size - first);
    for (row, columns) in slice.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
        let from = &state[row * tokens.value_size + first..];
        match from.first_chunk() {
            Some(from) if used == COLUMNS => *columns = *from,
            _ => {
                columns[..used].copy_from_slice(&from[..used]);
                columns[used..].fill(0.0);
            }
        }
    }
    columns_of(set, tokens, first, used, slice, outputs);
    Columns { slice, outputs, used }
}

multiversion! {
    fn columns_of / columns_of_avx2 / columns_of_avx512(
        tokens: &DeltaTokens<'_>, first: usize, used: usize, slice: &mut [f32], outputs: &mut [f32],
    ) = columns_of_body;
}

#[inline(always)]
fn columns_of_body(
    tokens: &DeltaTokens<'_>,
    first: usize,
    used: usize,
    slice: &mut [f32],
    outputs: &mut [f32],
) {
    steps::<COLUMNS>(tokens, first, used, slice.as_chunks_mut().0, outputs.as_chunks_mut().0);
}

multiversion! {
    fn whole / whole_avx2 / whole_avx512(
        tokens: &DeltaTokens<'_>, state: &mut [f32], outputs: &mut [f32],
    ) = whole_body;
}

/// All columns of a state of [`WIDE`] ones, in place: its rows are read one after the other.
#[inline(always)]
fn whole_body(tokens: &DeltaTokens<'_>, state: &mut [f32], outputs: &mut [f32]) {
    steps::<WIDE>(tokens, 0, WIDE, state.as_chunks_mut().0, outputs.as_chunks_mut().0);
}

/// Takes `W` columns from `first` on, of which `used` are there, through all tokens.
#[inline(always)]
fn steps<const W: usize>(
    tokens: &DeltaTokens<'_>,
    first: usize,
    used: usize,
    slice: &mut [[f32; W]],
    outputs: &mut [[f32; W]],
) {
    for (t, output) in outputs.iter_mut().take(tokens.count).enumerate() {
        let key = &tokens.keys[t * tokens.stride..][..tokens.key_size];
        let query = &tokens.queries[t * tokens.stride..][..tokens.key_size];
        let (decay, strength) =
            (tokens.decays[t * tokens.gate_stride], tokens.strengths[t * tokens.gate_stride]);
        let mut values = [0.0_f32; W];
        values[..used].copy_from_slice(&tokens.values[t * tokens.stride + first..][..used]);
        let mut read = [0.0_f32; W];
        for (row, k) in slice.iter_mut().zip(key) {
            for (s, sum) in row.iter_mut().zip(&mut read) {
                *s *= decay;
                *sum = s.mul_add(*k, *sum);
            }
        }
        let mut delta = [0.0_f32; W];
        for ((delta, value), read) in delta.iter_mut().zip(values).zip(read) {
            *delta = strength * (value - read);
        }
        let mut sums = [0.0_f32; W];
        for ((row, k), q) in slice.iter_mut().zip(key).zip(query) {
            for ((s, delta), sum) in row.iter_mut().zip(&delta).zip(&mut sums) {
                *s = k.mul_add(*delta, *s);
                *sum = s.mul_add(*q, *sum);
            }
        }
        *output = sums;
    }
}

multiversion! {
    /// `x[i] = (x[i] * (1 / sqrt(sum(x^2) + 1e-6))) * factor`, the norm of a delta network's queries and keys: the sum
    /// of squares, not their mean, in 16 lanes and the tree.
    pub fn unit_norm / unit_norm_avx2 / unit_norm_avx512(x: &mut [f32], factor: f32) = unit_norm_body;
}

#[inline(always)]
fn unit_norm_body(x: &mut [f32], factor: f32) {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = value.mul_add(*value, *lane);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = value.mul_add(*value, *lane);
    }
    let scale = 1.0 / (reduce_tree(lanes) + EPSILON).sqrt();
    for x in x {
        *x = (*x * scale) * factor;
    }
}

/// A state's decay `exp(rate * softplus(input + bias))` for a negative rate, in double precision, rounded once.
pub fn delta_decay(rate: f32, input: f32, bias: f32) -> f32 {
    let x = f64::from(input) + f64::from(bias);
    // Beyond 40 the softplus is its argument to the last place, and the exponential may overflow.
    let softplus = if x > 40.0 { x } else { math::ln_f64(1.0 + math::exp_f64(x)) };
    math::exp_f64(f64::from(rate) * softplus) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 7919 + 13) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    struct Case {
        mixed: Vec<f32>,
        gates: Vec<f32>,
        key_size: usize,
        value_size: usize,
        count: usize,
    }

    impl Case {
        fn new(key_size: usize, value_size: usize, count: usize) -> Self {
            let mut mixed = numbers(count * (2 * key_size + value_size), 1);
            for token in mixed.chunks_exact_mut(2 * key_size + value_size) {
                unit_norm(KernelSet::Scalar, &mut token[..key_size], 0.25);
                unit_norm(KernelSet::Scalar, &mut token[key_size..2 * key_size], 1.0);
            }
            let gates = numbers(2 * count, 5).iter().map(|x| x.abs()).collect();
            Self { mixed, gates, key_size, value_size, count }
        }

        fn tokens(&self, first: usize, count: usize) -> DeltaTokens<'_> {
            let stride = 2 * self.key_size + self.value_size;
            DeltaTokens {
                queries: &self.mixed[first * stride..],
                keys: &self.mixed[first * stride + self.key_size..],
                values: &self.mixed[first * stride + 2 * self.key_size..],
                stride,
                strengths: &self.gates[2 * first..],
                decays: &self.gates[2 * first + 1..],
                gate_stride: 2,
                count,
                key_size: self.key_size,
                value_size: self.value_size,
            }
        }

        /// Outputs and state after the tokens, in pieces.
        fn run(&self, set: KernelSet, pieces: &[usize]) -> Vec<u32> {
            let mut state = numbers(self.key_size * self.value_size, 3);
            let mut out = vec![0.0; self.count * self.value_size];
            let (mut first, mut scratch) = (0, Vec::new());
            for count in pieces {
                delta_net(set, &self.tokens(first, *count), &mut state, &mut scratch, |t, column, values| {
                    out[(first + t) * self.value_size + column..][..values.len()].copy_from_slice(values);
                });
                first += count;
            }
            assert_eq!(first, self.count);
            let before = numbers(self.key_size * self.value_size, 3);
            let mut ahead = vec![0.0; out.len()];
            delta_net_ahead(set, &self.tokens(0, first), &before, &mut scratch, |t, column, values| {
                ahead[t * self.value_size + column..][..values.len()].copy_from_slice(values);
            });
            assert_eq!(ahead, out, "looking ahead gives the same outputs");
            out.iter().chain(&state).map(|value| value.to_bits()).collect()
        }
    }

    #[test]
    fn sets_and_pieces_compute_the_same_bits() {
        for (key_size, value_size) in [(16, 16), (128, 128), (8, 40), (3, 5)] {
            let case = Case::new(key_size, value_size, 20);
            let wanted = case.run(KernelSet::Scalar, &[20]);
            for set in KernelSet::available() {
                for pieces in [&[20][..], &[1; 20], &[7, 1, 12]] {
                    assert!(case.run(set, pieces) == wanted, "{} {key_size}x{value_size}", set.name());
                }
            }
        }
    }

    #[test]
    fn it_is_the_delta_rule() {
        let case = Case::new(4, 6, 9);
        let got = case.run(KernelSet::Scalar, &[9]);
        let stride = 2 * 4 + 6;
        let mut state: Vec<f64> = numbers(24, 3).iter().map(|x| f64::from(*x)).collect();
        for t in 0..9 {
            let token: Vec<f64> = case.mixed[t * stride..][..stride].iter().map(|x| f64::from(*x)).collect();
            let (strength, decay) = (f64::from(case.gates[2 * t]), f64::from(case.gates[2 * t + 1]));
            for s in &mut state {
                *s *= decay;
            }
            for j in 0..6 {
                let read: f64 = (0..4).map(|i| state[i * 6 + j] * token[4 + i]).sum();
                let delta = strength * (token[8 + j] - read);
                for i in 0..4 {
                    state[i * 6 + j] += token[4 + i] * delta;
                }
                let out: f64 = (0..4).map(|i| state[i * 6 + j] * token[i]).sum();
                let found = f64::from(f32::from_bits(got[t * 6 + j]));
                assert!((found - out).abs() < 1e-5, "token {t}, column {j}: {found}, not {out}");
            }
        }
    }

    #[test]
    fn decays_are_what_the_formula_says() {
        for (rate, input, bias, wanted) in [
            (-1.0_f32, 0.0_f32, 0.0_f32, 0.5_f64),
            (-2.0, 100.0, 0.0, 1.383_896_526_736_737_5e-87),
            (-0.5, -200.0, 1.0, 1.0),
            (-3.0, 1.0, -1.0, 0.125),
        ] {
            let got = f64::from(delta_decay(rate, input, bias));
            assert!((got - wanted).abs() < 1e-7, "{got}, not {wanted}");
        }
    }

    #[test]
    fn the_norm_takes_the_sum_of_squares_and_its_epsilon_inside() {
        let mut x = [3.0, 4.0];
        unit_norm(KernelSet::Scalar, &mut x, 2.0);
        assert!((x[0] - 1.2).abs() < 1e-6 && (x[1] - 1.6).abs() < 1e-6);
        let mut x = [1e-3, 0.0];
        unit_norm(KernelSet::Scalar, &mut x, 1.0);
        assert!((x[0] - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-4);
    }
}
