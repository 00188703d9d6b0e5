//! Inputs of their own for each layer: a second embedding of the token, joined with a projection of the first.

use nearfield_kernels::vector;

use super::{Buffers, Graph, Step};
use crate::compute::fit;
use crate::runner::Chunk;
use crate::weights::PerLayerWeights;

impl Graph<'_> {
    /// Every layer's inputs, from the embedded tokens in the stream. Of the second table one row a token is read.
    pub(super) fn per_layer_inputs(&mut self, chunks: &[Chunk<'_>]) {
        let (Some(width), Some(weights)) = (self.architecture.per_layer_input, &self.weights.per_layer)
        else {
            self.buffers.inputs.clear();
            return;
        };
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let Buffers { stream, inputs, .. } = &mut self.buffers;
        let all = width * self.architecture.layers.len();
        fit(inputs, stream.len() / hidden * all);
        self.compute.products(stream, hidden, &mut [(&weights.projection, inputs)]);
        let (context, token) = ((hidden as f64).sqrt().recip() as f32, (width as f64).sqrt() as f32);
        let set = self.compute.set();
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        let mut embedded = vec![0.0; all];
        for (row, id) in inputs.chunks_exact_mut(all).zip(tokens) {
            weights.embedding.dequantize_row(*id as usize, &mut embedded);
            vector::scale(&mut embedded, token);
            vector::scale(row, context);
            for part in row.chunks_exact_mut(width) {
                vector::rms_norm_in_place(set, part, &weights.norm, epsilon);
            }
            vector::add(set, row, &embedded);
            vector::scale(row, std::f32::consts::FRAC_1_SQRT_2);
        }
    }
}

impl Step<'_> {
    /// Adds what a layer makes of its inputs to the stream.
    pub(super) fn per_layer(&mut self, index: usize, weights: &PerLayerWeights<'_>) {
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let width = weights.gate.rows();
        let all = width * self.architecture.layers.len();
        let Buffers { stream, branch, gate, up, inputs, .. } = &mut *self.buffers;
        let count = stream.len() / hidden;
        fit(gate, count * width);
        fit(up, count * width);
        fit(branch, count * hidden);
        for (place, row) in up.chunks_exact_mut(width).zip(inputs.chunks_exact(all)) {
            place.copy_from_slice(&row[index * width..][..width]);
        }
        self.compute.products(stream, hidden, &mut [(&weights.gate, gate)]);
        self.compute.activate(self.architecture.activation, gate, up, width);
        self.compute.products(gate, width, &mut [(&weights.output, branch)]);
        self.compute.add_branch(stream, branch, Some(&weights.norm), epsilon, hidden);
    }
}
