//! The head that foretells one token more: a layer of its own over the model's state after a token and the token that
//! follows it.
//!
//! Its keys and values lie in the cache at the position of the token that follows, so that those of a block of positions
//! depend on the tokens up to the block's end, as all others do. Position 0 follows nothing: what lies there is never
//! looked at.

use nearfield_kernels::{KernelSet, WeightMatrix, vector};
use nearfield_model::Architecture;

use super::{Buffers, Graph, Rows, Step};
use crate::cache::Cache;
use crate::compute::{Span, fit, store};
use crate::runner::{Chunk, DraftRow, LogitsWanted};
use crate::weights::{DraftWeights, MixerWeights};

/// What the head's input is made with.
struct Join<'a> {
    set: KernelSet,
    architecture: &'a Architecture,
    embedding: &'a WeightMatrix<'a>,
    weights: &'a DraftWeights<'a>,
}

impl<'a> Join<'a> {
    fn new(
        set: KernelSet,
        architecture: &'a Architecture,
        embedding: &'a WeightMatrix<'a>,
        weights: &'a DraftWeights<'a>,
    ) -> Self {
        Self { set, architecture, embedding, weights }
    }

    /// Writes the norms of a token's embedding and of the state before the token, one behind the other.
    fn write(&self, before: &[f32], token: u32, pair: &mut [f32]) {
        let Self { set, architecture, embedding, weights } = self;
        let epsilon = architecture.norm_epsilon;
        let (front, back) = pair.split_at_mut(architecture.hidden_size);
        embedding.dequantize_row(token as usize, back);
        vector::scale(back, architecture.embedding_scale);
        vector::rms_norm(*set, back, &weights.embedding_norm, epsilon, front);
        vector::rms_norm(*set, before, &weights.state_norm, epsilon, back);
    }
}

impl Graph<'_> {
    /// Lets the head follow the rows of a step, whose stream is complete: their keys and values, and each sequence's
    /// last state, from which the head goes on.
    pub(super) fn follow(&mut self, cache: &mut Cache, chunks: &mut [Chunk<'_>], rows: &Rows) {
        let (Some(shape), Some(weights)) = (&self.architecture.draft, &self.weights.draft) else { return };
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let join = Join::new(self.compute.set(), self.architecture, &self.weights.embedding, weights);
        let Buffers { stream, states, projected, kept, .. } = &mut self.buffers;
        self.compute.norm(stream, &self.weights.output_norm, epsilon, states);
        kept.keep_outputs(rows, states, hidden);
        fit(projected, rows.count() * 2 * hidden);
        for span in &rows.spans {
            let chunk = &mut chunks[span.chunk];
            for row in 0..span.count {
                let at = span.first_row + row;
                let before = match row.checked_sub(1) {
                    Some(_) => &states[(at - 1) * hidden..][..hidden],
                    None => chunk.sequence.state().output(),
                };
                let pair = &mut projected[at * 2 * hidden..][..2 * hidden];
                join.write(before, chunk.tokens[row], pair);
            }
            if !chunk.is_guessed() {
                let last = (span.first_row + span.count - 1) * hidden;
                chunk.sequence.state_mut().output_mut().copy_from_slice(&states[last..][..hidden]);
            }
        }
        let MixerWeights::Attention(mixer) = &weights.layer.mixer else { return };
        let (Some(shape), Some(keys), Some(values)) = (shape.attention(), &mixer.key, &mixer.value) else {
            return;
        };
        let Buffers { projected, branch, normed, key, value, .. } = &mut self.buffers;
        fit(branch, rows.count() * hidden);
        self.compute.products(projected, 2 * hidden, &mut [(&weights.input, &mut *branch)]);
        self.compute.norm(branch, &weights.layer.mixer_norm, epsilon, normed);
        let width = rows.count() * shape.key_value_width();
        fit(key, width);
        fit(value, width);
        self.compute.products(normed, hidden, &mut [(keys, &mut *key), (values, &mut *value)]);
        let rope = &self.ropes[shape.rope];
        self.compute.prepare_heads(&mut [], key, value, mixer, shape, epsilon, rope, &rows.places);
        store(cache, self.architecture.layers.len(), shape, key, value, chunks, &rows.places);
    }

    /// Logits of the tokens after each row's, from the model's state before it or from the head's own of the last call.
    /// The states become the head's own.
    pub(crate) fn draft(&mut self, cache: &mut Cache, rows: &mut [DraftRow<'_>]) {
        let (Some(shape), Some(weights)) = (&self.architecture.draft, &self.weights.draft) else { return };
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let join = Join::new(self.compute.set(), self.architecture, &self.weights.embedding, weights);
        let Buffers { projected, states, .. } = &mut self.buffers;
        fit(projected, rows.len() * 2 * hidden);
        for (row, pair) in rows.iter().zip(projected.chunks_exact_mut(2 * hidden)) {
            let before = match row.previous {
                Some(previous) => &states[previous * hidden..][..hidden],
                None => row.sequence.state().output(),
            };
            join.write(before, row.token, pair);
        }
        let spans = rows.iter().enumerate().map(|(row, draft)| Span {
            chunk: row,
            first_row: row,
            first_position: draft.position(),
            count: 1,
        });
        let places = Rows::new(spans.collect());
        for rope in &mut self.ropes {
            rope.reach(places.reached());
        }
        let Buffers { stream, projected, .. } = &mut self.buffers;
        fit(stream, rows.len() * hidden);
        self.compute.products(projected, 2 * hidden, &mut [(&weights.input, stream)]);
        let mut chunks: Vec<Chunk<'_>> = rows
            .iter_mut()
            .map(|row| Chunk { sequence: &mut *row.sequence, tokens: &[], logits: LogitsWanted::All })
            .collect();
        let mut step = Step {
            model: self.model,
            architecture: self.architecture,
            compute: &mut self.compute,
            ropes: &self.ropes,
            buffers: &mut self.buffers,
            hides_first: true,
        };
        let index = self.architecture.layers.len();
        step.layer(index, shape, &weights.layer, cache, &mut chunks, &places);
        let Buffers { stream, states, logits: out, .. } = &mut self.buffers;
        self.compute.norm(stream, &weights.output_norm, epsilon, states);
        fit(out, places.count() * self.architecture.vocabulary_size);
        self.compute.products(states, hidden, &mut [(&self.weights.head, out)]);
    }
}
