//! Runs the graph of a decoder-only transformer over batches of rows.
//!
//! A row is one token of one sequence. All families of dense transformers share this graph; what differs between
//! them is in the [`Architecture`] and in which weights a layer has.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nearfield_kernels::{
    Activations, AttentionScratch, AttentionSettings, KernelSet, KeyValueType, MatmulScratch, Output,
    PAGE_POSITIONS, QuantizedRows, Queries, ROW_QUANTUM, ThreadPool, UnsupportedKernels, WeightMatrix,
    attention, matmul, vector,
};
use nearfield_model::{Activation, Architecture, Layer, Model};

use crate::cache::{Cache, Sequence};
use crate::error::EngineError;
use crate::rope::RopeTable;
use crate::shared::SharedSlice;
use crate::weights::{LayerWeights, Weights};

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

/// The means of computing: kernels, threads, their scratch memory.
struct Compute {
    set: KernelSet,
    arithmetic: Arithmetic,
    pool: ThreadPool,
    scratch: Vec<Mutex<WorkerScratch>>,
    quantized: QuantizedRows,
}

#[derive(Default)]
struct WorkerScratch {
    matmul: MatmulScratch,
    attention: AttentionScratch,
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

/// Where a row stands.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    position: usize,
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
        let scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Ok(Self {
            architecture,
            weights: Weights::new(model)?,
            compute: Compute {
                set,
                arithmetic: options.arithmetic,
                pool,
                scratch,
                quantized: QuantizedRows::default(),
            },
            ropes: architecture.rope.iter().map(RopeTable::new).collect(),
            cache: Cache::new(architecture, options.key_value_type, options.cache_positions),
            buffers: Buffers::default(),
        })
    }

    /// The kernel set in use.
    pub fn kernels(&self) -> KernelSet {
        self.compute.set
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
            vector::soft_cap(self.compute.set, logits, cap);
        }
    }
}

impl Compute {
    fn lock(scratch: &Mutex<WorkerScratch>) -> MutexGuard<'_, WorkerScratch> {
        scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` over rows: here when they are few, on all threads otherwise.
    fn rows(&mut self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        if count < 4 {
            (0..count).for_each(work);
        } else {
            self.pool.split(count, 1, &|_, range| range.for_each(work));
        }
    }

    fn norm(&mut self, stream: &[f32], weight: &[f32], epsilon: f32, normed: &mut Vec<f32>) {
        let width = weight.len();
        fit(normed, stream.len());
        let (set, out) = (self.set, SharedSlice::new(normed));
        self.rows(stream.len() / width, &|row| {
            // SAFETY: each row is visited once.
            let out = unsafe { out.get(row * width, width) };
            vector::rms_norm(set, &stream[row * width..][..width], weight, epsilon, out);
        });
    }

    /// Products of the same input with several matrices, in one section.
    fn products(&mut self, input: &[f32], columns: usize, list: &mut [(&WeightMatrix<'_>, &mut Vec<f32>)]) {
        let Self { set, arithmetic, pool, scratch, quantized } = self;
        let integer =
            |matrix: &WeightMatrix<'_>| *arithmetic == Arithmetic::Default && !matrix.format().is_float();
        if list.iter().any(|(matrix, _)| integer(matrix)) {
            quantized.quantize(*set, pool, input, input.len() / columns, columns);
        }
        let tasks: Vec<(&WeightMatrix<'_>, Activations<'_>, Output<'_>)> = list
            .iter_mut()
            .map(|(matrix, out)| {
                let activations = if integer(matrix) {
                    Activations::Quantized(quantized)
                } else {
                    Activations::Float { values: input, columns }
                };
                (*matrix, activations, Output::new(out, matrix.rows()))
            })
            .collect();
        let (set, threads) = (*set, pool.threads());
        pool.run(&|worker| {
            let mut scratch = Self::lock(&scratch[worker]);
            for (matrix, activations, output) in &tasks {
                let share = matrix.rows().div_ceil(ROW_QUANTUM).div_ceil(threads) * ROW_QUANTUM;
                let start = (worker * share).min(matrix.rows());
                let range = start..(start + share).min(matrix.rows());
                // SAFETY: workers' ranges are disjoint.
                unsafe { matmul(set, matrix, activations, range, output, &mut scratch.matmul) };
            }
        });
    }

    /// Biases, head norms and rotations of queries and keys; biases of values.
    fn prepare_heads(
        &mut self,
        query: &mut [f32],
        key: &mut [f32],
        value: &mut [f32],
        weights: &LayerWeights<'_>,
        shape: &Layer,
        epsilon: f32,
        rope: &RopeTable,
        places: &[Place],
    ) {
        let set = self.set;
        let (query_width, key_width) = (weights.query.rows(), weights.key.rows());
        let (query, key, value) = (SharedSlice::new(query), SharedSlice::new(key), SharedSlice::new(value));
        self.rows(places.len(), &|row| {
            // SAFETY: each row is visited once.
            let (query, key, value) = unsafe {
                (
                    query.get(row * query_width, query_width),
                    key.get(row * key_width, key_width),
                    value.get(row * key_width, key_width),
                )
            };
            let (cos, sin) = rope.at(places[row].position);
            for (x, bias, norm, rotates) in [
                (query, &weights.query_bias, &weights.query_norm, true),
                (key, &weights.key_bias, &weights.key_norm, true),
                (value, &weights.value_bias, &None, false),
            ] {
                if let Some(bias) = bias {
                    vector::add(set, x, bias);
                }
                for head in x.chunks_exact_mut(shape.head_size) {
                    if let Some(norm) = norm {
                        vector::rms_norm_in_place(set, head, norm, epsilon);
                    }
                    if rotates {
                        vector::rotate(set, head, cos, sin, rope.pairs());
                    }
                }
            }
        });
    }

    /// Attention of every chunk's rows. Work is dealt out in units of up to 16 queries of one key-value head.
    fn attend(
        &mut self,
        cache: &Cache,
        layer: usize,
        shape: &Layer,
        settings: &AttentionSettings,
        query: &[f32],
        attended: &mut [f32],
        chunks: &[Chunk<'_>],
    ) {
        const QUERIES: usize = 16;
        let (size, stride) = (shape.head_size, shape.heads * shape.head_size);
        let group = shape.heads / shape.key_value_heads;
        // Few sequences and few key-value heads would leave threads idle: then query heads are dealt out one by one.
        let whole_groups = chunks.len() * shape.key_value_heads >= self.pool.threads();
        let heads_a_unit = if whole_groups { group } else { 1 };
        let mut units = Vec::new();
        let mut first_row = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            for start in (0..chunk.tokens.len()).step_by(QUERIES) {
                let count = QUERIES.min(chunk.tokens.len() - start);
                for head in (0..shape.heads).step_by(heads_a_unit) {
                    units.push((index, first_row + start, start, count, head));
                }
            }
            first_row += chunk.tokens.len();
        }
        let out = SharedSlice::new(attended);
        let (set, scratch, next) = (self.set, &self.scratch, AtomicUsize::new(0));
        let work = |worker: usize| {
            let mut scratch = Self::lock(&scratch[worker]);
            while let Some((chunk, row, start, count, head)) =
                units.get(next.fetch_add(1, Ordering::Relaxed)).copied()
            {
                let sequence = &*chunks[chunk].sequence;
                let queries = Queries {
                    values: &query[row * stride + head * size..],
                    stride,
                    count,
                    first_position: sequence.length() + start,
                    heads: heads_a_unit,
                };
                attention(
                    set,
                    &cache.view(layer, sequence),
                    head / group,
                    &queries,
                    settings,
                    &mut scratch.attention,
                    |t, h, output| {
                        // SAFETY: units cover disjoint rows and heads.
                        let place = unsafe { out.get((row + t) * stride + (head + h) * size, size) };
                        place.copy_from_slice(output);
                    },
                );
            }
        };
        if units.len() == 1 { work(0) } else { self.pool.run(&work) }
    }

    /// Adds a block's output to the stream, normed first where the family does so.
    fn add_branch(
        &mut self,
        stream: &mut [f32],
        branch: &mut [f32],
        norm: Option<&[f32]>,
        epsilon: f32,
        width: usize,
    ) {
        let (set, count) = (self.set, stream.len() / width);
        let (stream, branch) = (SharedSlice::new(stream), SharedSlice::new(branch));
        self.rows(count, &|row| {
            // SAFETY: each row is visited once.
            let (stream, branch) =
                unsafe { (stream.get(row * width, width), branch.get(row * width, width)) };
            if let Some(norm) = norm {
                vector::rms_norm_in_place(set, branch, norm, epsilon);
            }
            vector::add(set, stream, branch);
        });
    }

    fn activate(&mut self, activation: Activation, gate: &mut [f32], up: &[f32], width: usize) {
        let (set, count) = (self.set, gate.len() / width);
        let gate = SharedSlice::new(gate);
        self.rows(count, &|row| {
            // SAFETY: each row is visited once.
            let gate = unsafe { gate.get(row * width, width) };
            let up = &up[row * width..][..width];
            match activation {
                Activation::Silu => vector::silu_times(set, gate, up),
                Activation::GeluTanh => vector::gelu_times(set, gate, up),
            }
        });
    }
}

/// Gives a buffer this length. It grows by what is needed and no more, so that the plan stays true.
fn fit(buffer: &mut Vec<f32>, length: usize) {
    buffer.reserve_exact(length.saturating_sub(buffer.len()));
    buffer.resize(length, 0.0);
}

/// Writes the step's keys and values into the cache.
fn store(
    cache: &mut Cache,
    layer: usize,
    shape: &Layer,
    key: &[f32],
    value: &[f32],
    chunks: &[Chunk<'_>],
    places: &[Place],
) {
    let layout = cache.layout(layer);
    let bytes = cache.bytes_mut(layer);
    let size = shape.head_size;
    let width = shape.key_value_heads * size;
    for (row, place) in places.iter().enumerate() {
        let page = chunks[place.chunk].sequence.pages()[place.position / PAGE_POSITIONS] as usize;
        let page = &mut bytes[page * layout.page_bytes()..][..layout.page_bytes()];
        for head in 0..shape.key_value_heads {
            let at = row * width + head * size;
            layout.write(
                page,
                place.position % PAGE_POSITIONS,
                head,
                &key[at..][..size],
                &value[at..][..size],
            );
        }
    }
}
