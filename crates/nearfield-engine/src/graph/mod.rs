//! The graph of a decoder-only transformer over a batch of rows.
//!
//! A row is one token of one sequence. All families share the blocks of this folder; which of them a layer goes through
//! follows from the [`Architecture`] and from which weights it has.

mod attention;
mod delta_net;
mod draft;
mod experts;
mod feed_forward;
mod guesses;
#[cfg(test)]
mod layer_tests;
mod per_layer;

use nearfield_model::{Architecture, Layer, Model};

use crate::cache::Cache;
use crate::compute::{Compute, Place, Span, fit};
use crate::rope::RopeTable;
use crate::runner::{Chunk, LogitsWanted};
use crate::weights::{LayerWeights, MixerWeights, Weights};
use nearfield_kernels::vector;

pub(crate) use guesses::{KeptRows, kept_row_bytes};

/// Intermediate results, row-major, one row for each token of the step.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Residual stream `[rows][hidden]`.
    pub(crate) stream: Vec<f32>,
    /// Normed input of a block `[rows][hidden]`.
    normed: Vec<f32>,
    /// A query projection with gates, or the input of a delta network's convolution.
    projected: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    /// Output of a block `[rows][hidden]`.
    branch: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Every layer's own inputs `[rows][layers][per_layer_input]`.
    inputs: Vec<f32>,
    experts: experts::Buffers,
    /// What is kept of the step's guesses.
    pub(crate) kept: KeptRows,
    /// States after the output norm of the rows that were asked for.
    pub(crate) states: Vec<f32>,
    pub(crate) logits: Vec<f32>,
}

impl Buffers {
    /// Floats that the buffers hold room for.
    #[cfg(test)]
    pub(crate) fn floats(&self) -> usize {
        let Self {
            stream,
            normed,
            projected,
            query,
            key,
            value,
            attended,
            branch,
            gate,
            up,
            inputs,
            experts,
            kept,
            states,
            logits,
        } = self;
        let all = [
            stream, normed, projected, query, key, value, attended, branch, gate, up, inputs, states, logits,
        ];
        all.iter().map(|buffer| buffer.capacity()).sum::<usize>() + experts.floats() + kept.floats()
    }
}

/// A model ready to compute: everything but the cache.
pub(crate) struct Graph<'m> {
    pub(crate) model: &'m Model,
    pub(crate) architecture: &'m Architecture,
    pub(crate) weights: Weights<'m>,
    pub(crate) compute: Compute,
    pub(crate) ropes: Vec<RopeTable>,
    pub(crate) buffers: Buffers,
    /// Whether the draft head follows what is fed.
    pub(crate) follows: bool,
}

/// The rows of a step.
pub(crate) struct Rows {
    /// Runs of rows of one chunk each.
    pub(crate) spans: Vec<Span>,
    /// Where each row stands.
    pub(crate) places: Vec<Place>,
}

impl Rows {
    fn new(spans: Vec<Span>) -> Self {
        let places = spans.iter().flat_map(|span| {
            (0..span.count).map(|t| Place { chunk: span.chunk, position: span.first_position + t })
        });
        Self { places: places.collect(), spans }
    }

    /// All rows of the chunks.
    pub(crate) fn of(chunks: &[Chunk<'_>]) -> Self {
        let mut first_row = 0;
        let spans = chunks.iter().enumerate().map(|(chunk, c)| {
            let (count, first_position) = (c.tokens.len(), c.sequence.length());
            first_row += count;
            Span { chunk, first_row: first_row - count, first_position, count }
        });
        Self::new(spans.collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    /// Positions that the rows reach.
    pub(crate) fn reached(&self) -> usize {
        self.places.iter().map(|place| place.position + 1).max().unwrap_or(0)
    }
}

impl Graph<'_> {
    /// Runs all layers and the output head over the chunks. Keys, values and states go to the cache and the sequences.
    pub(crate) fn run(&mut self, cache: &mut Cache, chunks: &mut [Chunk<'_>]) {
        let mut rows = Rows::of(chunks);
        for rope in &mut self.ropes {
            rope.reach(rows.reached());
        }
        self.buffers.kept.begin(self.architecture, chunks);
        self.embed(chunks);
        self.per_layer_inputs(chunks);
        let last_writer = self.last_writer();
        for index in 0..self.architecture.layers.len() {
            if index == last_writer + 1 {
                rows = self.narrow(&rows, chunks);
            }
            self.layer(index, cache, chunks, &rows);
        }
        if self.follows && rows.count() > 0 {
            self.follow(cache, chunks, &rows);
        }
        if last_writer + 1 == self.architecture.layers.len() {
            rows = self.narrow(&rows, chunks);
        }
        self.head(rows.count());
    }

    /// The last layer that keeps something of its own for later tokens. What follows matters only to rows whose logits
    /// are wanted.
    fn last_writer(&self) -> usize {
        if self.follows {
            return self.architecture.layers.len() - 1;
        }
        let writes = |layer: &Layer| layer.delta_net().is_some() || layer.cached().is_some();
        self.architecture.layers.iter().rposition(writes).unwrap_or(0)
    }

    fn embed(&mut self, chunks: &[Chunk<'_>]) {
        let hidden = self.architecture.hidden_size;
        let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        fit(&mut self.buffers.stream, tokens.len() * hidden);
        for (row, token) in self.buffers.stream.chunks_exact_mut(hidden).zip(tokens) {
            self.weights.embedding.dequantize_row(token as usize, row);
            if self.architecture.embedding_scale != 1.0 {
                vector::scale(row, self.architecture.embedding_scale);
            }
        }
    }

    /// Drops the rows whose logits nobody wants.
    fn narrow(&mut self, rows: &Rows, chunks: &[Chunk<'_>]) -> Rows {
        let hidden = self.architecture.hidden_size;
        let inputs = self.buffers.inputs.len() / rows.count().max(1);
        let mut spans = Vec::new();
        let mut kept = 0;
        for span in &rows.spans {
            let wanted = match chunks[span.chunk].logits {
                LogitsWanted::None => 0,
                LogitsWanted::Last => span.count.min(1),
                LogitsWanted::All | LogitsWanted::Guessed => span.count,
            };
            if wanted == 0 {
                continue;
            }
            let first = span.first_row + span.count - wanted;
            let Buffers { stream, inputs: all, .. } = &mut self.buffers;
            stream.copy_within(first * hidden..(first + wanted) * hidden, kept * hidden);
            all.copy_within(first * inputs..(first + wanted) * inputs, kept * inputs);
            spans.push(Span {
                chunk: span.chunk,
                first_row: kept,
                first_position: span.first_position + span.count - wanted,
                count: wanted,
            });
            kept += wanted;
        }
        self.buffers.stream.truncate(kept * hidden);
        self.buffers.inputs.truncate(kept * inputs);
        Rows::new(spans)
    }

    /// One layer: what mixes positions and what does not, each on a normed copy of the stream and added to it.
    fn layer(&mut self, index: usize, cache: &mut Cache, chunks: &mut [Chunk<'_>], rows: &Rows) {
        if rows.count() == 0 {
            return;
        }
        let (Some(shape), Some(weights)) =
            (self.architecture.layers.get(index), self.weights.layers.get(index))
        else {
            return;
        };
        let mut step = Step {
            model: self.model,
            architecture: self.architecture,
            compute: &mut self.compute,
            ropes: &self.ropes,
            buffers: &mut self.buffers,
            hides_first: false,
        };
        step.layer(index, shape, weights, cache, chunks, rows);
    }

    /// Logits of all rows that are left in the stream.
    fn head(&mut self, rows: usize) {
        let hidden = self.architecture.hidden_size;
        let Buffers { stream, states, logits, .. } = &mut self.buffers;
        fit(logits, rows * self.architecture.vocabulary_size);
        if rows == 0 {
            states.clear();
            return;
        }
        self.compute.norm(stream, &self.weights.output_norm, self.architecture.norm_epsilon, states);
        self.compute.products(states, hidden, &mut [(&self.weights.head, logits)]);
        if let Some(cap) = self.architecture.final_logit_softcap {
            vector::soft_cap(self.compute.set(), logits, cap);
        }
    }
}

/// What the blocks of a layer work with.
struct Step<'a> {
    model: &'a Model,
    architecture: &'a Architecture,
    compute: &'a mut Compute,
    ropes: &'a [RopeTable],
    buffers: &'a mut Buffers,
    /// Whether attention passes over position 0.
    hides_first: bool,
}

impl Step<'_> {
    fn layer(
        &mut self,
        index: usize,
        shape: &Layer,
        weights: &LayerWeights<'_>,
        cache: &mut Cache,
        chunks: &mut [Chunk<'_>],
        rows: &Rows,
    ) {
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        self.compute.norm(&self.buffers.stream, &weights.mixer_norm, epsilon, &mut self.buffers.normed);
        match (&weights.mixer, shape.attention(), shape.delta_net()) {
            (MixerWeights::Attention(weights), Some(shape), _) => {
                self.attention(index, shape, weights, cache, chunks, rows);
            }
            (MixerWeights::DeltaNet(weights), _, Some(shape)) => {
                self.delta_net(index, shape, weights, chunks, rows);
            }
            _ => return,
        }
        let Buffers { stream, normed, branch, .. } = &mut *self.buffers;
        self.compute.add_branch(stream, branch, weights.post_mixer_norm.as_deref(), epsilon, hidden);
        self.compute.norm(stream, &weights.feed_forward_norm, epsilon, normed);
        self.feed_forward(&shape.feed_forward, &weights.feed_forward);
        let Buffers { stream, branch, .. } = &mut *self.buffers;
        self.compute.add_branch(stream, branch, weights.post_feed_forward_norm.as_deref(), epsilon, hidden);
        if let Some(weights) = &weights.per_layer {
            self.per_layer(index, weights);
        }
        if let Some(scale) = weights.scale {
            vector::scale(&mut self.buffers.stream, scale);
        }
    }
}
