//! Rows that may be taken back: guesses at what an answer will say.
//!
//! A recurrent state cannot be cut, so guesses do not move it. What it would take to move it is kept instead, for this
//! one step: the inputs of its convolution, its strengths and decays. Once it is known how many rows hold, these are gone
//! through again, without any of the products around them, and the state is what it would be had only these been fed.

use nearfield_model::{Architecture, DeltaNet};

use super::{Buffers, Graph, Rows, Step};
use crate::cache::Sequence;
use crate::compute::{Span, fit};
use crate::runner::{Chunk, LogitsWanted};
use crate::weights::{DeltaNetWeights, MixerWeights};

/// What is kept of a step's guesses.
#[derive(Debug, Default)]
pub(crate) struct KeptRows {
    /// Of each chunk that consists of guesses, the place of its first row among all that are kept.
    firsts: Vec<Option<usize>>,
    rows: usize,
    layers: Vec<KeptLayer>,
    /// States after the output norm, `[rows][hidden]`, where the draft head follows.
    pub(super) outputs: Vec<f32>,
}

/// What is kept for one delta network.
#[derive(Debug, Default)]
struct KeptLayer {
    /// `[rows][channels]`.
    inputs: Vec<f32>,
    /// `[rows][value_heads]` each.
    strengths: Vec<f32>,
    decays: Vec<f32>,
}

impl KeptRows {
    /// Makes room for the guesses among the chunks of a step.
    pub(super) fn begin(&mut self, architecture: &Architecture, chunks: &[Chunk<'_>]) {
        self.rows = 0;
        self.firsts.clear();
        for chunk in chunks {
            let kept = chunk.is_guessed() && !chunk.sequence.state().is_empty();
            self.firsts.push(kept.then_some(self.rows));
            self.rows += if kept { chunk.tokens.len() } else { 0 };
        }
        self.layers.resize_with(architecture.layers.len(), KeptLayer::default);
    }

    /// The place of a chunk's first row; `None` where it is not kept.
    pub(crate) fn first(&self, chunk: usize) -> Option<usize> {
        self.firsts.get(chunk).copied().flatten()
    }

    /// Keeps the states after the output norm of the rows that are kept.
    pub(super) fn keep_outputs(&mut self, rows: &Rows, states: &[f32], hidden: usize) {
        fit(&mut self.outputs, self.rows * hidden);
        for span in &rows.spans {
            let Some(first) = self.first(span.chunk) else { continue };
            self.outputs[first * hidden..][..span.count * hidden]
                .copy_from_slice(&states[span.first_row * hidden..][..span.count * hidden]);
        }
    }

    #[cfg(test)]
    pub(super) fn floats(&self) -> usize {
        let layer = |layer: &KeptLayer| {
            layer.inputs.capacity() + layer.strengths.capacity() + layer.decays.capacity()
        };
        self.outputs.capacity() + self.layers.iter().map(layer).sum::<usize>()
    }
}

/// Bytes that a kept row takes.
pub(crate) fn kept_row_bytes(architecture: &Architecture) -> u64 {
    let layers = architecture.layers.iter().filter_map(|layer| layer.delta_net());
    let floats: usize = layers.map(|delta| delta.channels() + 2 * delta.value_heads).sum();
    4 * (floats + architecture.draft.as_ref().map_or(0, |_| architecture.hidden_size)) as u64
}

impl Step<'_> {
    /// Keeps what the state of a layer will have to go through.
    pub(super) fn keep(&mut self, index: usize, shape: &DeltaNet, rows: &Rows) {
        let Buffers { projected, key: strengths, value: decays, kept, .. } = &mut *self.buffers;
        if kept.rows == 0 {
            return;
        }
        let KeptRows { firsts, layers, rows: count, .. } = kept;
        let Some(layer) = layers.get_mut(index) else { return };
        for (from, to, width) in [
            (&*projected, &mut layer.inputs, shape.channels()),
            (&*strengths, &mut layer.strengths, shape.value_heads),
            (&*decays, &mut layer.decays, shape.value_heads),
        ] {
            fit(to, *count * width);
            for span in &rows.spans {
                let Some(first) = firsts.get(span.chunk).copied().flatten() else { continue };
                to[first * width..][..span.count * width]
                    .copy_from_slice(&from[span.first_row * width..][..span.count * width]);
            }
        }
    }

    /// Moves the state of a layer on by rows that were kept.
    fn replay(
        &mut self,
        index: usize,
        shape: &DeltaNet,
        weights: &DeltaNetWeights<'_>,
        chunk: &mut [Chunk<'_>],
        rows: &Rows,
        first: usize,
    ) {
        let count = rows.count();
        let Buffers { projected, query: mixed, key: strengths, value: decays, kept, .. } = &mut *self.buffers;
        let Some(layer) = kept.layers.get(index) else { return };
        for (from, to, width) in [
            (&layer.inputs, &mut *projected, shape.channels()),
            (&layer.strengths, &mut *strengths, shape.value_heads),
            (&layer.decays, &mut *decays, shape.value_heads),
        ] {
            fit(to, count * width);
            to.copy_from_slice(&from[first * width..][..count * width]);
        }
        fit(mixed, count * shape.channels());
        self.convolve(index, shape, weights, chunk, rows);
        self.recur(index, shape, chunk, rows);
    }
}

impl Graph<'_> {
    /// Moves a sequence's state on by `count` rows of its guesses, of which the first was kept at `first`. They must be
    /// those of the last step.
    pub(crate) fn settle(&mut self, sequence: &mut Sequence, first: usize, count: usize) {
        if count == 0 {
            return;
        }
        let hidden = self.architecture.hidden_size;
        let outputs = &self.buffers.kept.outputs;
        if self.follows {
            let last = &outputs[(first + count - 1) * hidden..][..hidden];
            sequence.state_mut().output_mut().copy_from_slice(last);
        }
        let span = Span { chunk: 0, first_row: 0, first_position: sequence.length(), count };
        let rows = Rows::new(vec![span]);
        let mut chunk = [Chunk { sequence, tokens: &[], logits: LogitsWanted::None }];
        let mut step = Step {
            model: self.model,
            architecture: self.architecture,
            compute: &mut self.compute,
            ropes: &self.ropes,
            buffers: &mut self.buffers,
            hides_first: false,
        };
        for (index, (shape, weights)) in self.architecture.layers.iter().zip(&self.weights.layers).enumerate()
        {
            if let (Some(shape), MixerWeights::DeltaNet(weights)) = (shape.delta_net(), &weights.mixer) {
                step.replay(index, shape, weights, &mut chunk, &rows, first);
            }
        }
    }
}
