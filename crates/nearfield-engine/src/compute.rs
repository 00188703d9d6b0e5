//! The operations of the graph: each takes rows, splits the work among threads, and leaves the same bits however it was
//! split.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nearfield_kernels::{
    Activations, AttentionScratch, AttentionSettings, KernelSet, MatmulScratch, Output, PAGE_POSITIONS,
    QuantizedRows, Queries, ROW_QUANTUM, ThreadPool, WeightMatrix, attention, matmul, vector,
};
use nearfield_model::{Activation, Attention};

use crate::cache::Cache;
use crate::rope::RopeTable;
use crate::runner::{Arithmetic, Chunk};
use crate::shared::SharedSlice;
use crate::weights::AttentionWeights;

/// The means of computing: kernels, threads, their scratch memory.
pub(crate) struct Compute {
    set: KernelSet,
    arithmetic: Arithmetic,
    pool: ThreadPool,
    scratch: Vec<Mutex<WorkerScratch>>,
    quantized: Vec<QuantizedRows>,
    /// An input with its rows filled up.
    wide: Vec<f32>,
}

#[derive(Default)]
pub(crate) struct WorkerScratch {
    matmul: MatmulScratch,
    attention: AttentionScratch,
    recurrence: Vec<f32>,
}

/// Consecutive rows of one sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The chunk that they belong to.
    pub(crate) chunk: usize,
    pub(crate) first_row: usize,
    pub(crate) first_position: usize,
    pub(crate) count: usize,
}

/// Rows of a product's input that meet a matrix which others do not meet.
pub(crate) struct Group<'a> {
    pub(crate) matrix: &'a WeightMatrix<'a>,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// Where a row stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) chunk: usize,
    pub(crate) position: usize,
}

impl Compute {
    pub(crate) fn new(set: KernelSet, arithmetic: Arithmetic, pool: ThreadPool) -> Self {
        let scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Self { set, arithmetic, pool, scratch, quantized: Vec::new(), wide: Vec::new() }
    }

    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    pub(crate) fn set(&self) -> KernelSet {
        self.set
    }

    pub(crate) fn pool_mut(&mut self) -> &mut ThreadPool {
        &mut self.pool
    }

    fn lock(scratch: &Mutex<WorkerScratch>) -> MutexGuard<'_, WorkerScratch> {
        scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` over rows: here when they are few, on all threads otherwise.
    pub(crate) fn rows(&mut self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        if count < 4 {
            (0..count).for_each(work);
        } else {
            self.pool.split(count, 1, &|_, range| range.for_each(work));
        }
    }

    /// Runs `work` over units that are worth a thread each, with scratch memory of that thread.
    pub(crate) fn units(&mut self, count: usize, work: &(dyn Fn(usize, &mut Vec<f32>) + Sync)) {
        let (scratch, next) = (&self.scratch, AtomicUsize::new(0));
        self.pool.run(&|worker| {
            let mut scratch = Self::lock(&scratch[worker]);
            loop {
                let unit = next.fetch_add(1, Ordering::Relaxed);
                if unit >= count {
                    return;
                }
                work(unit, &mut scratch.recurrence);
            }
        });
    }

    pub(crate) fn norm(&mut self, stream: &[f32], weight: &[f32], epsilon: f32, normed: &mut Vec<f32>) {
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
    pub(crate) fn products(
        &mut self,
        input: &[f32],
        columns: usize,
        list: &mut [(&WeightMatrix<'_>, &mut Vec<f32>)],
    ) {
        let count = input.len() / columns;
        let mut groups: Vec<(Vec<Group<'_>>, &mut Vec<f32>)> = list
            .iter_mut()
            .map(|(matrix, out)| (vec![Group { matrix, first: 0, count }], &mut **out))
            .collect();
        self.grouped_products(input, columns, &mut groups);
    }

    /// Products of runs of rows of one input, each with a matrix of its own, in one section. All matrices of a list have
    /// the same number of rows. Matrices whose rows are filled up with zeros meet an input that is filled up alike.
    pub(crate) fn grouped_products(
        &mut self,
        input: &[f32],
        columns: usize,
        list: &mut [(Vec<Group<'_>>, &mut Vec<f32>)],
    ) {
        let Self { set, arithmetic, pool, scratch, quantized, wide, .. } = self;
        let (set, arithmetic) = (*set, *arithmetic);
        let integer =
            |matrix: &WeightMatrix<'_>| arithmetic == Arithmetic::Default && !matrix.format().is_float();
        let widest = list.iter().flat_map(|(groups, _)| groups).map(|group| group.matrix.columns()).max();
        let widest = widest.unwrap_or(columns);
        if widest > columns {
            fill_up(input, columns, widest, wide);
        }
        let values = |group: &Group<'_>| {
            let (values, columns) = match group.matrix.columns() {
                own if own > columns => (&wide[..], own),
                _ => (input, columns),
            };
            (&values[group.first * columns..][..group.count * columns], columns)
        };
        // Of each run of rows there may be two quantized forms: as it is, and filled up.
        let place = |number: usize, columns_of: usize| 2 * number + usize::from(columns_of > columns);
        let most = list.iter().map(|(groups, _)| groups.len()).max().unwrap_or(0);
        if quantized.len() < 2 * most {
            quantized.resize_with(2 * most, QuantizedRows::default);
        }
        let mut done = vec![false; 2 * most];
        for (number, group) in list.iter().flat_map(|(groups, _)| groups.iter().enumerate()) {
            let (rows, columns) = values(group);
            let at = place(number, columns);
            if integer(group.matrix) && !done[at] {
                quantized[at].quantize(set, pool, rows, group.count, columns);
                done[at] = true;
            }
        }
        let quantized = &*quantized;
        let mut tasks: Vec<(&WeightMatrix<'_>, Activations<'_>, Output<'_>)> = Vec::new();
        for (groups, out) in list.iter_mut() {
            let mut rest = out.as_mut_slice();
            for (number, group) in groups.iter().enumerate() {
                let (part, after) = rest.split_at_mut(group.count * group.matrix.rows());
                rest = after;
                let (values, columns) = values(group);
                let activations = if integer(group.matrix) {
                    Activations::Quantized(&quantized[place(number, columns)])
                } else {
                    Activations::Float { values, columns }
                };
                tasks.push((group.matrix, activations, Output::new(part, group.matrix.rows())));
            }
        }
        Self::run(set, pool, scratch, &tasks);
    }

    /// Deals out the rows of every task's matrix among the threads.
    fn run(
        set: KernelSet,
        pool: &mut ThreadPool,
        scratch: &[Mutex<WorkerScratch>],
        tasks: &[(&WeightMatrix<'_>, Activations<'_>, Output<'_>)],
    ) {
        let threads = pool.threads();
        pool.run(&|worker| {
            let mut scratch = Self::lock(&scratch[worker]);
            for (matrix, activations, output) in tasks {
                let share = matrix.rows().div_ceil(ROW_QUANTUM).div_ceil(threads) * ROW_QUANTUM;
                let start = (worker * share).min(matrix.rows());
                let range = start..(start + share).min(matrix.rows());
                // SAFETY: workers' ranges are disjoint.
                unsafe { matmul(set, matrix, activations, range, output, &mut scratch.matmul) };
            }
        });
    }

    /// Biases, head norms and rotations of queries and keys; biases of values. There may be no queries.
    pub(crate) fn prepare_heads(
        &mut self,
        query: &mut [f32],
        key: &mut [f32],
        value: &mut [f32],
        weights: &AttentionWeights<'_>,
        shape: &Attention,
        epsilon: f32,
        rope: &RopeTable,
        places: &[Place],
    ) {
        let set = self.set;
        // A layer that reads the keys and values of another has none to prepare.
        let key_width = if shape.shares.is_some() { 0 } else { shape.key_value_width() };
        let query_width = if query.is_empty() { 0 } else { shape.width() };
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
                (value, &weights.value_bias, &weights.value_norm, false),
            ] {
                if let Some(bias) = bias.as_ref().filter(|_| !x.is_empty()) {
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

    /// Attention of every chunk's rows. Work is dealt out in units of up to 16 queries of one key-value head. With
    /// `hides_first` none looks at position 0; rows come one to a chunk then.
    pub(crate) fn attend(
        &mut self,
        cache: &Cache,
        layer: usize,
        shape: &Attention,
        settings: &AttentionSettings,
        hides_first: bool,
        query: &[f32],
        attended: &mut [f32],
        chunks: &[Chunk<'_>],
        spans: &[Span],
    ) {
        const QUERIES: usize = 16;
        let (size, stride) = (shape.head_size, shape.width());
        let group = shape.heads / shape.key_value_heads;
        // Few rows and few key-value heads would leave threads idle: then a group's query heads are dealt out in parts.
        let whole: usize =
            spans.iter().map(|span| span.count.div_ceil(QUERIES) * shape.key_value_heads).sum();
        let parts = self.pool.threads().div_ceil(whole.max(1)).min(group);
        let heads_a_unit = (1..=group).find(|heads| group.is_multiple_of(*heads) && group / heads <= parts);
        let heads_a_unit = heads_a_unit.unwrap_or(group);
        let mut units = Vec::new();
        for span in spans {
            for start in (0..span.count).step_by(QUERIES) {
                let count = QUERIES.min(span.count - start);
                for head in (0..shape.heads).step_by(heads_a_unit) {
                    units.push((
                        span.chunk,
                        span.first_row + start,
                        span.first_position + start,
                        count,
                        head,
                    ));
                }
            }
        }
        let out = SharedSlice::new(attended);
        let (set, scratch, next) = (self.set, &self.scratch, AtomicUsize::new(0));
        let work = |worker: usize| {
            let mut scratch = Self::lock(&scratch[worker]);
            while let Some((chunk, row, first_position, count, head)) =
                units.get(next.fetch_add(1, Ordering::Relaxed)).copied()
            {
                let sequence = &*chunks[chunk].sequence;
                // A window as long as what lies before leaves out the first position and no other.
                let window = if hides_first { Some(first_position.max(1)) } else { settings.window };
                let queries = Queries {
                    values: &query[row * stride + head * size..],
                    stride,
                    count,
                    first_position,
                    heads: heads_a_unit,
                };
                attention(
                    set,
                    &cache.view(layer, sequence),
                    head / group,
                    &queries,
                    &AttentionSettings { window, ..*settings },
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
    pub(crate) fn add_branch(
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

    pub(crate) fn activate(&mut self, activation: Activation, gate: &mut [f32], up: &[f32], width: usize) {
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

/// Copies rows of `columns` elements to rows of `wanted`, with zeros behind.
fn fill_up(input: &[f32], columns: usize, wanted: usize, wide: &mut Vec<f32>) {
    fit(wide, input.len() / columns * wanted);
    for (wide, row) in wide.chunks_exact_mut(wanted).zip(input.chunks_exact(columns)) {
        wide[..columns].copy_from_slice(row);
        wide[columns..].fill(0.0);
    }
}

/// Gives a buffer this length. It grows by what is needed and no more, so that the plan stays true.
pub(crate) fn fit(buffer: &mut Vec<f32>, length: usize) {
    buffer.reserve_exact(length.saturating_sub(buffer.len()));
    buffer.resize(length, 0.0);
}

/// Writes the step's keys and values into the cache.
pub(crate) fn store(
    cache: &mut Cache,
    layer: usize,
    shape: &Attention,
    key: &[f32],
    value: &[f32],
    chunks: &[Chunk<'_>],
    places: &[Place],
) {
    let layout = cache.layout(layer);
    let bytes = cache.bytes_mut(layer);
    let size = shape.head_size;
    let width = shape.key_value_width();
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
