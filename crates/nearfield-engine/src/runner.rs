//! Runs the graph of a decoder-only transformer over batches of rows.
//!
//! A row is one token of one sequence. All families of dense transformers share this graph; what differs between
//! them is in the [`Architecture`] and in which weights a layer has.

use nearfield_kernels::{AttentionSettings, KernelSet, KeyValueType, ThreadPool, UnsupportedKernels, vector};
use nearfield_model::{Architecture, Model};

use crate::cache::{Cache, Sequence};
use crate::compute::{Compute, Place, fit, store};
use crate::error::EngineError;
use crate::rope::RopeTable;
use crate::weights::Weights;

/// The two arithmetics of `docs/numerics.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// int8 activations for integer weights.
    #[default]
    Default,
    /// Every weight dequantized exactly, `f32` activations.
    Exact,
}

impl Arithmetic {
    /// The name that flags and receipts use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Exact => "exact",
        }
    }
}

/// How a [`Runner`] computes.
#[derive(Clone, Copy, Debug)]
pub struct RunnerOptions {
    /// Threads, the caller's included.
    pub threads: usize,
    /// Element type of cached keys and values.
    pub key_value_type: KeyValueType,
    /// Default or exact.
    pub arithmetic: Arithmetic,
    /// Kernel set; `None` takes the fastest.
    pub kernels: Option<KernelSet>,
    /// Positions of the cache, all sequences together.
    pub cache_positions: usize,
}

/// Consecutive tokens of one sequence, to be fed in one step.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where they go; it grows by them.
    pub sequence: &'a mut Sequence,
    /// The tokens.
    pub tokens: &'a [u32],
    /// Which of their logits are wanted.
    pub logits: LogitsWanted,
}

/// Which rows of a chunk go through the output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsWanted {
    /// None: more of the prompt follows.
    None,
    /// The last row.
    Last,
    /// Every row.
    All,
}

/// Logits of the rows that were asked for, in the order of chunks and rows.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocabulary.max(1)
    }

    /// Logits of one row, by token id.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.vocabulary..][..self.vocabulary]
    }
}

/// A model ready to compute.
pub struct Runner<'m> {
    architecture: &'m Architecture,
    weights: Weights<'m>,
    compute: Compute,
    ropes: Vec<RopeTable>,
    cache: Cache,
    buffers: Buffers,
}

/// Intermediate results, row-major, one row for each token of the step.
#[derive(Default)]
struct Buffers {
    /// Residual stream `[rows][hidden]`.
    stream: Vec<f32>,
    /// Normed input of a block `[rows][hidden]`.
    normed: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    /// Output of a block `[rows][hidden]`.
    branch: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
}

impl<'m> Runner<'m> {
    /// Prepares a model.
    ///
    /// # Errors
    /// When a tensor is missing or malformed, or the system refuses threads.
    pub fn new(model: &'m Model, options: &RunnerOptions) -> Result<Self, EngineError> {
        let set = match options.kernels {
            Some(set) if KernelSet::available().contains(&set) => set,
            Some(set) => return Err(UnsupportedKernels { wanted: set.name().to_owned() }.into()),
            None => KernelSet::detect()?,
        };
        let architecture = model.architecture();
        let pool = ThreadPool::new(options.threads)?;
        Ok(Self {
            architecture,
            weights: Weights::new(model)?,
            compute: Compute::new(set, options.arithmetic, pool),
            ropes: architecture.rope.iter().map(RopeTable::new).collect(),
            cache: Cache::new(architecture, options.key_value_type, options.cache_positions),
            buffers: Buffers::default(),
        })
    }

    /// The kernel set in use.
    pub fn kernels(&self) -> KernelSet {
        self.compute.set()
    }

    /// Reserves room for a sequence of up to `positions` tokens; `None` when the cache has not enough left.
    pub fn open(&mut self, positions: usize) -> Option<Sequence> {
        self.cache.reserve(positions)
    }

    /// Gives a sequence's room back.
    pub fn close(&mut self, sequence: Sequence) {
        self.cache.release(sequence);
    }

    /// Bytes of the buffers between operations, tables included.
    #[cfg(test)]
    pub(crate) fn buffer_bytes(&self) -> u64 {
        let Buffers { stream, normed, query, key, value, attended, branch, gate, up, logits } = &self.buffers;
        let buffers = [stream, normed, query, key, value, attended, branch, gate, up, logits];
        let floats: usize = buffers.iter().map(|buffer| buffer.capacity()).sum();
        let tables: usize = self.ropes.iter().map(RopeTable::bytes).sum();
        (4 * floats + tables) as u64
    }

    /// Positions of the cache that nobody has reserved.
    pub fn free_positions(&self) -> usize {
        self.cache.free_positions()
    }

    /// Feeds every chunk's tokens to its sequence, all in one pass over the weights.
    ///
    /// # Errors
    /// When a token is not in the vocabulary or a sequence has no room left; nothing has changed then.
    pub fn step(&mut self, chunks: &mut [Chunk<'_>]) -> Result<Logits<'_>, EngineError> {
        self.check(chunks)?;
        let places: Vec<Place> = chunks
            .iter()
            .enumerate()
            .flat_map(|(chunk, c)| {
                let first = c.sequence.length();
                (0..c.tokens.len()).map(move |t| Place { chunk, position: first + t })
            })
            .collect();
        let reached = places.iter().map(|place| place.position + 1).max().unwrap_or(0);
        for rope in &mut self.ropes {
            rope.reach(reached);
        }
        self.embed(chunks);
        for index in 0..self.architecture.layers.len() {
            self.layer(index, chunks, &places);
        }
        self.head(chunks);
        for chunk in chunks {
            let count = chunk.tokens.len();
            chunk.sequence.advance(count);
        }
        Ok(Logits { values: &self.buffers.logits, vocabulary: self.architecture.vocabulary_size })
    }

    fn check(&self, chunks: &[Chunk<'_>]) -> Result<(), EngineError> {
        for chunk in chunks {
            let vocabulary = self.architecture.vocabulary_size;
            if let Some(token) = chunk.tokens.iter().find(|token| **token as usize >= vocabulary) {
                return Err(EngineError::UnknownToken { token: *token, vocabulary });
            }
            if chunk.sequence.length() + chunk.tokens.len() > chunk.sequence.capacity() {
                return Err(EngineError::ContextOverflow {
                    prompt: chunk.sequence.length(),
                    wanted: chunk.tokens.len(),
                    limit: chunk.sequence.capacity(),
                });
            }
        }
        Ok(())
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

    /// One transformer layer: attention and feed-forward, each on a normed copy of the stream and added to it.
    fn layer(&mut self, index: usize, chunks: &[Chunk<'_>], places: &[Place]) {
        let shape = &self.architecture.layers[index];
        let weights = &self.weights.layers[index];
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let Buffers { stream, normed, query, key, value, attended, branch, gate, up, .. } = &mut self.buffers;
        let compute = &mut self.compute;
        let rows = places.len();

        compute.norm(stream, &weights.attention_norm, epsilon, normed);
        fit(query, rows * weights.query.rows());
        fit(key, rows * weights.key.rows());
        fit(value, rows * weights.value.rows());
        compute.products(
            normed,
            hidden,
            &mut [(&weights.query, query), (&weights.key, key), (&weights.value, value)],
        );
        compute.prepare_heads(query, key, value, weights, shape, epsilon, &self.ropes[shape.rope], places);
        store(&mut self.cache, index, shape, key, value, chunks, places);
        fit(attended, rows * weights.query.rows());
        let settings = AttentionSettings {
            scale: shape.attention_scale,
            window: shape.window,
            soft_cap: self.architecture.attention_logit_softcap,
        };
        compute.attend(&self.cache, index, shape, &settings, query, attended, chunks);
        fit(branch, rows * hidden);
        compute.products(attended, weights.query.rows(), &mut [(&weights.attention_output, branch)]);
        compute.add_branch(stream, branch, weights.post_attention_norm.as_deref(), epsilon, hidden);

        compute.norm(stream, &weights.feed_forward_norm, epsilon, normed);
        fit(gate, rows * weights.gate.rows());
        fit(up, rows * weights.up.rows());
        compute.products(normed, hidden, &mut [(&weights.gate, gate), (&weights.up, up)]);
        compute.activate(self.architecture.activation, gate, up, weights.gate.rows());
        compute.products(gate, weights.gate.rows(), &mut [(&weights.down, branch)]);
        compute.add_branch(stream, branch, weights.post_feed_forward_norm.as_deref(), epsilon, hidden);
    }

    /// Logits of the rows that are wanted.
    fn head(&mut self, chunks: &[Chunk<'_>]) {
        let hidden = self.architecture.hidden_size;
        let Buffers { stream, normed, branch, logits, .. } = &mut self.buffers;
        branch.clear();
        let mut first = 0;
        for chunk in chunks {
            let count = chunk.tokens.len();
            let wanted = match chunk.logits {
                LogitsWanted::None => 0,
                LogitsWanted::Last => count.min(1),
                LogitsWanted::All => count,
            };
            branch.extend_from_slice(&stream[(first + count - wanted) * hidden..][..wanted * hidden]);
            first += count;
        }
        let rows = branch.len() / hidden;
        fit(logits, rows * self.architecture.vocabulary_size);
        if rows == 0 {
            return;
        }
        self.compute.norm(branch, &self.weights.output_norm, self.architecture.norm_epsilon, normed);
        self.compute.products(normed, hidden, &mut [(&self.weights.head, logits)]);
        if let Some(cap) = self.architecture.final_logit_softcap {
            vector::soft_cap(self.compute.set(), logits, cap);
        }
    }
}
