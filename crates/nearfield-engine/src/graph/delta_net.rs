//! Gated delta networks: projections, a short convolution, the recurrence over the sequence's state, a gated norm.

use nearfield_kernels::{
    DeltaTokens, convolve, delta_decay, delta_net, delta_net_ahead, sigmoid, times_silu, unit_norm, vector,
};
use nearfield_model::DeltaNet;

use super::{Buffers, Rows, Step};
use crate::compute::{Span, fit};
use crate::recurrent::LayerState;
use crate::runner::Chunk;
use crate::shared::SharedSlice;
use crate::weights::DeltaNetWeights;

impl Step<'_> {
    /// From the normed input to the branch. The states of the sequences move on by the rows, but not by guesses.
    pub(super) fn delta_net(
        &mut self,
        index: usize,
        shape: &DeltaNet,
        weights: &DeltaNetWeights<'_>,
        chunks: &mut [Chunk<'_>],
        rows: &Rows,
    ) {
        let (hidden, count) = (self.architecture.hidden_size, rows.count());
        let Buffers { normed, projected, query: mixed, key: strengths, value: decays, gate, .. } =
            &mut *self.buffers;
        fit(projected, count * shape.channels());
        fit(gate, count * shape.value_width());
        fit(strengths, count * shape.value_heads);
        fit(decays, count * shape.value_heads);
        self.compute.products(
            normed,
            hidden,
            &mut [
                (&weights.input, projected),
                (&weights.gate, gate),
                (&weights.strength, strengths),
                (&weights.decay, decays),
            ],
        );
        for strength in &mut *strengths {
            *strength = sigmoid(*strength);
        }
        for row in decays.chunks_exact_mut(shape.value_heads) {
            for ((decay, rate), bias) in row.iter_mut().zip(&weights.decay_rate).zip(&weights.decay_bias) {
                *decay = delta_decay(*rate, *decay, *bias);
            }
        }
        fit(mixed, count * shape.channels());
        self.keep(index, shape, rows);
        self.convolve(index, shape, weights, chunks, rows);
        self.recur(index, shape, chunks, rows);
        self.finish(shape, weights, count);
    }

    /// The convolution of every row, then the norms of its queries and keys. Later rows of a chunk see earlier ones, and
    /// the first see what the sequence remembers.
    pub(super) fn convolve(
        &mut self,
        index: usize,
        shape: &DeltaNet,
        weights: &DeltaNetWeights<'_>,
        chunks: &mut [Chunk<'_>],
        rows: &Rows,
    ) {
        let (channels, past) = (shape.channels(), shape.kernel - 1);
        let Buffers { projected, query: mixed, .. } = &mut *self.buffers;
        let projected = &*projected;
        let set = self.compute.set();
        // The square root of a size is exact for those that are published, and correctly rounded for others.
        let factor = (shape.key_size as f64).sqrt().recip() as f32;
        for span in &rows.spans {
            let guessed = chunks[span.chunk].is_guessed();
            let Some(state) = chunks[span.chunk].sequence.state_mut().layer_mut(index) else { continue };
            let row_at = |row: usize| &projected[(span.first_row + row) * channels..][..channels];
            let out = SharedSlice::new(&mut *mixed);
            let inputs = &state.inputs;
            self.compute.rows(span.count, &|row| {
                let seen: Vec<&[f32]> = (row..=row + past)
                    .map(|at| match at.checked_sub(past) {
                        Some(row) => row_at(row),
                        None => &inputs[at * channels..][..channels],
                    })
                    .collect();
                // SAFETY: each row is visited once.
                let out = unsafe { out.get((span.first_row + row) * channels, channels) };
                convolve(set, &weights.convolution, &seen, out);
                let heads = shape.key_heads * shape.key_size;
                for head in out[..heads].chunks_exact_mut(shape.key_size) {
                    unit_norm(set, head, factor);
                }
                for head in out[heads..2 * heads].chunks_exact_mut(shape.key_size) {
                    unit_norm(set, head, 1.0);
                }
            });
            if !guessed {
                remember(state, span, past, channels, row_at);
            }
        }
    }

    /// The recurrence of every head of every sequence.
    pub(super) fn recur(&mut self, index: usize, shape: &DeltaNet, chunks: &mut [Chunk<'_>], rows: &Rows) {
        let (channels, width) = (shape.channels(), shape.value_width());
        let matrix = shape.key_size * shape.value_size;
        let Buffers { query: mixed, key: strengths, value: decays, attended, .. } = &mut *self.buffers;
        fit(attended, rows.count() * width);
        let (mixed, strengths, decays) = (&*mixed, &*strengths, &*decays);
        let set = self.compute.set();
        let out = SharedSlice::new(attended);
        for span in &rows.spans {
            let guessed = chunks[span.chunk].is_guessed();
            let Some(state) = chunks[span.chunk].sequence.state_mut().layer_mut(index) else { continue };
            let states = SharedSlice::new(&mut state.heads);
            self.compute.units(shape.value_heads, &|head, scratch| {
                let first = span.first_row * channels;
                let key_head = shape.key_head(head);
                let keys = shape.key_heads * shape.key_size;
                let gates = span.first_row * shape.value_heads + head;
                let tokens = DeltaTokens {
                    queries: &mixed[first + key_head * shape.key_size..],
                    keys: &mixed[first + keys + key_head * shape.key_size..],
                    values: &mixed[first + 2 * keys + head * shape.value_size..],
                    stride: channels,
                    strengths: &strengths[gates..],
                    decays: &decays[gates..],
                    gate_stride: shape.value_heads,
                    count: span.count,
                    key_size: shape.key_size,
                    value_size: shape.value_size,
                };
                // SAFETY: each head is visited once.
                let state = unsafe { states.get(head * matrix, matrix) };
                let emit = |token: usize, column: usize, values: &[f32]| {
                    let at = (span.first_row + token) * width + head * shape.value_size + column;
                    // SAFETY: heads write disjoint columns of the rows.
                    unsafe { out.get(at, values.len()) }.copy_from_slice(values);
                };
                if guessed {
                    delta_net_ahead(set, &tokens, state, scratch, emit);
                } else {
                    delta_net(set, &tokens, state, scratch, emit);
                }
            });
        }
    }

    /// The norm of each head, its gate, and the projection to the branch.
    fn finish(&mut self, shape: &DeltaNet, weights: &DeltaNetWeights<'_>, count: usize) {
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let (set, width) = (self.compute.set(), shape.value_width());
        let Buffers { attended, gate, branch, .. } = &mut *self.buffers;
        let gate = &*gate;
        let out = SharedSlice::new(&mut *attended);
        self.compute.rows(count, &|row| {
            // SAFETY: each row is visited once.
            let out = unsafe { out.get(row * width, width) };
            for head in out.chunks_exact_mut(shape.value_size) {
                vector::rms_norm_in_place(set, head, &weights.norm, epsilon);
            }
            times_silu(set, out, &gate[row * width..][..width]);
        });
        fit(branch, count * hidden);
        self.compute.products(attended, width, &mut [(&weights.output, branch)]);
    }
}

/// Keeps the last inputs of the convolution for the rows to come.
fn remember<'a>(
    state: &mut LayerState,
    span: &Span,
    past: usize,
    channels: usize,
    row_at: impl Fn(usize) -> &'a [f32],
) {
    let fresh = span.count.min(past);
    state.inputs.copy_within(fresh * channels.., 0);
    for (place, row) in (past - fresh..past).zip(span.count - fresh..) {
        state.inputs[place * channels..][..channels].copy_from_slice(row_at(row));
    }
}
