//! The head that foretells one token more: a layer of its own over the model's last state and the token that followed.

use nearfield_kernels::vector;

use super::{Buffers, Graph, Rows, Step};
use crate::cache::Cache;
use crate::compute::{Span, fit};
use crate::runner::Chunk;

impl Graph<'_> {
    /// Logits of the tokens after `chunk.tokens`, which stand one place after the states. Keys and values go to the
    /// draft layer's place in the cache, at the states' positions, of which `first` is the first.
    pub(crate) fn draft(&mut self, cache: &mut Cache, chunk: Chunk<'_>, first: usize, states: &[f32]) {
        let (Some(shape), Some(weights)) = (&self.architecture.draft, &self.weights.draft) else { return };
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let count = chunk.tokens.len();
        let span = Span { chunk: 0, first_row: 0, first_position: first, count };
        let rows = Rows::new(vec![span]);
        for rope in &mut self.ropes {
            rope.reach(rows.reached());
        }
        let Buffers { stream, projected, .. } = &mut self.buffers;
        let set = self.compute.set();
        fit(projected, count * 2 * hidden);
        let mut embedded = vec![0.0; hidden];
        let pairs = projected.chunks_exact_mut(2 * hidden).zip(states.chunks_exact(hidden));
        for ((row, state), token) in pairs.zip(chunk.tokens) {
            self.weights.embedding.dequantize_row(*token as usize, &mut embedded);
            vector::scale(&mut embedded, self.architecture.embedding_scale);
            let (front, back) = row.split_at_mut(hidden);
            vector::rms_norm(set, &embedded, &weights.embedding_norm, epsilon, front);
            vector::rms_norm(set, state, &weights.state_norm, epsilon, back);
        }
        fit(stream, count * hidden);
        self.compute.products(projected, 2 * hidden, &mut [(&weights.input, stream)]);
        let index = self.architecture.layers.len();
        let mut step = Step {
            architecture: self.architecture,
            compute: &mut self.compute,
            ropes: &self.ropes,
            buffers: &mut self.buffers,
        };
        step.layer(index, shape, &weights.layer, cache, &mut [chunk], &rows);
        let Buffers { stream, states, logits: out, .. } = &mut self.buffers;
        self.compute.norm(stream, &weights.output_norm, epsilon, states);
        fit(out, count * self.architecture.vocabulary_size);
        self.compute.products(states, hidden, &mut [(&self.weights.head, out)]);
    }
}
