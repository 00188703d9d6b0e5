//! The one account of memory: computed before anything is allocated, printed, then kept to.

use nearfield_kernels::{GROUP, KeyValueLayout, KeyValueType, PAGE_POSITIONS};
use nearfield_model::{Architecture, Attention, DeltaNet, Layer, LayerTensor, Mixer, Model, TensorRole};

use crate::cache::{ENTRY_BYTES, kept_states};
use crate::error::EngineError;
use crate::graph::kept_row_bytes;
use crate::memory;
use crate::options::{EngineOptions, WeightsPlace};
use crate::recurrent::state_bytes;
use crate::speculation::{guessed_rows, logits_rows};

/// Longest context that is taken without being asked for.
const DEFAULT_CONTEXT: usize = 8192;

/// Most rows in a step, unless there are more slots.
const ROWS: usize = 256;

/// Least rows that a step leaves to prompts when every slot is decoding.
const PROMPT_ROWS: usize = 32;

/// Shortest context that is worth loading a model for when the default one does not fit.
const LEAST_CONTEXT: usize = 512;

/// Memory that stays free beside weights in memory of their own: an eighth, but no more than this.
const MOST_SPARE: u64 = 2 << 30;

/// Bytes of a model's tensors by how they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// What every token reads.
    pub common: u64,
    /// Routed experts, of which a token reads a few.
    pub experts: u64,
    /// The table of inputs for single layers, of which a token reads one row: it stays in the file.
    pub table: u64,
}

impl WeightBytes {
    /// Sorts the sizes of tensors.
    pub fn of(sizes: impl Iterator<Item = (TensorRole, u64)>) -> Self {
        sizes.fold(Self::default(), |mut sum, (role, bytes)| {
            match role {
                TensorRole::PerLayerEmbedding => sum.table += bytes,
                TensorRole::Layer { part: LayerTensor::Expert { .. }, .. } => sum.experts += bytes,
                _ => sum.common += bytes,
            }
            sum
        })
    }
}

/// Where the weights of a loaded model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsHeld {
    /// In memory of their own, laid out for the kernels.
    Memory,
    /// As before, but for routed experts: those stay in the mapped file, and are asked for when a router has chosen them.
    ExpertsMapped,
    /// In the mapped file.
    Mapped,
}

impl WeightsHeld {
    /// The name that receipts and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::ExpertsMapped => "memory, experts mapped",
            Self::Mapped => "mapped",
        }
    }
}

/// What a loaded model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the model's tensors that memory must have room for.
    pub weight_bytes: u64,
    /// Bytes of further tensors, which are read where they lie in the file, as far as the system has room for them.
    pub file_bytes: u64,
    /// Where the former are.
    pub weights: WeightsHeld,
    /// Element type of cached keys and values.
    pub key_value_type: KeyValueType,
    /// Bytes of keys and values for one position.
    pub key_value_bytes_per_position: u64,
    /// Positions in the cache, all sequences together.
    pub cache_positions: usize,
    /// Positions that one sequence may reach.
    pub context: usize,
    /// Sequences that may run at once.
    pub slots: usize,
    /// Largest number of rows (tokens) in one step.
    pub rows: usize,
    /// Largest number of rows in one step whose logits are computed.
    pub logits_rows: usize,
    /// Bytes of intermediate results and tables.
    pub scratch_bytes: u64,
}

impl Plan {
    /// Plans a model within the options and the memory there is.
    pub(crate) fn for_model(model: &Model, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::for_architecture(model.architecture(), WeightBytes::of(model.tensors().sizes()), options)
    }

    /// As [`Engine::plan_for`](crate::Engine::plan_for), for a model that is not here but known by its sizes.
    ///
    /// # Errors
    /// As there.
    pub fn for_architecture(
        architecture: &Architecture,
        weights: WeightBytes,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let available = options.memory_bytes.or_else(memory::available).unwrap_or(u64::MAX);
        let most = architecture.context_length;
        let invalid = |name, expected| Err(EngineError::InvalidSetting { name, expected });
        if options.slots == 0 {
            return invalid("slots", "at least 1");
        }
        if options.context.is_some_and(|context| context == 0 || context > most) {
            return invalid("context", "at least 1 and at most the context that the model was made for");
        }
        let wanted = options.context.unwrap_or(most.min(DEFAULT_CONTEXT));
        let mut plan = Self {
            weight_bytes: weights.common + weights.experts,
            file_bytes: weights.table,
            weights: WeightsHeld::Mapped,
            key_value_type: options.cache_type(architecture),
            key_value_bytes_per_position: position_bytes(architecture, options.cache_type(architecture)),
            cache_positions: 0,
            context: wanted,
            slots: options.slots,
            rows: ROWS.max(options.slots + PROMPT_ROWS),
            logits_rows: logits_rows(options),
            scratch_bytes: 0,
        };
        plan.scratch_bytes = scratch_bytes(architecture, &plan, options.thread_count())
            + guessed_rows(options) as u64 * kept_row_bytes(architecture);
        if options.prefix_files.is_some() {
            // One beginning on its way to the disk.
            plan.scratch_bytes +=
                plan.key_value_bytes_per_position * wanted as u64 + state_bytes(architecture);
        }
        let whole = plan.divide(options, available);
        if weights.experts == 0 || matches!(&whole, Ok(plan) if plan.weights == WeightsHeld::Memory) {
            return whole;
        }
        plan.weight_bytes = weights.common;
        plan.file_bytes += weights.experts;
        match (plan.divide(options, available), whole) {
            (Ok(plan), _) if plan.weights == WeightsHeld::Memory => {
                Ok(Self { weights: WeightsHeld::ExpertsMapped, ..plan })
            }
            (_, Ok(whole)) => Ok(whole),
            (parts, Err(_)) => parts,
        }
    }

    /// Divides what weights and scratch leave into positions.
    fn divide(mut self, options: &EngineOptions, available: u64) -> Result<Self, EngineError> {
        let page_bytes = self.key_value_bytes_per_position * PAGE_POSITIONS as u64;
        let pages = |bytes: u64| usize::try_from(bytes / page_bytes.max(1)).unwrap_or(usize::MAX);
        let left = available.saturating_sub(self.weight_bytes + self.scratch_bytes);
        let allowed = options.cache_bytes.unwrap_or(available / 4);
        let mut one = self.context.div_ceil(PAGE_POSITIONS);
        if options.context.is_none() && one > pages(left) {
            // Nobody asked for this context, so a shorter one will do.
            let least = self.context.min(LEAST_CONTEXT);
            self.context = (pages(left) * PAGE_POSITIONS).max(least).min(self.context);
            one = self.context.div_ceil(PAGE_POSITIONS);
        }
        let all = one.saturating_mul(self.slots);
        let chosen = match options.cache_bytes {
            Some(_) => pages(allowed),
            None => pages(allowed.min(left)),
        };
        self.cache_positions = chosen.min(all).max(one).saturating_mul(PAGE_POSITIONS);
        let needed = self.total_bytes();
        if needed > available {
            return Err(EngineError::OutOfMemory { needed, available });
        }
        let in_memory = match options.weights {
            WeightsPlace::Memory => true,
            WeightsPlace::Mapped => false,
            WeightsPlace::Automatic => needed <= available - (available / 8).min(MOST_SPARE),
        };
        self.weights = if in_memory { WeightsHeld::Memory } else { WeightsHeld::Mapped };
        Ok(self)
    }

    /// Bytes of the whole cache of keys and values.
    pub fn cache_bytes(&self) -> u64 {
        self.key_value_bytes_per_position.saturating_mul(self.cache_positions as u64)
    }

    /// Everything together but what stays in the file.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.cache_bytes()).saturating_add(self.scratch_bytes)
    }
}

/// Bytes of one position's keys and values in all layers.
fn position_bytes(architecture: &Architecture, kind: KeyValueType) -> u64 {
    let page = |layer: &Attention| {
        KeyValueLayout::new(kind, layer.key_value_heads, layer.head_size).page_bytes() as u64
    };
    architecture.all_layers().filter_map(Layer::cached).map(page).sum::<u64>() / PAGE_POSITIONS as u64
}

/// The largest value of a size among the layers.
fn widest(architecture: &Architecture, size: impl Fn(&Layer) -> usize) -> u64 {
    architecture.all_layers().map(size).max().unwrap_or(0) as u64
}

/// The largest value of a size among the layers with attention.
fn widest_attention(architecture: &Architecture, size: impl Fn(&Attention) -> usize) -> u64 {
    widest(architecture, |layer| layer.attention().map_or(0, &size))
}

/// The largest value of a size among the recurrent layers.
fn widest_delta(architecture: &Architecture, size: impl Fn(&DeltaNet) -> usize) -> u64 {
    widest(architecture, |layer| layer.delta_net().map_or(0, &size))
}

/// An upper bound of everything that a runner and a sampler allocate beside the cache: intermediate results of a full
/// step, logits, int8 activations, each thread's scratch, RoPE tables, and norms and biases as `f32`.
fn scratch_bytes(architecture: &Architecture, plan: &Plan, threads: usize) -> u64 {
    const FLOAT: u64 = 4;
    // Buffers that grow by doubling may be twice as large as what they hold.
    const GROWTH: u64 = 2;
    let (rows, slots, threads) = (plan.rows as u64, plan.slots as u64, threads as u64);
    let (hidden, vocabulary) = (architecture.hidden_size as u64, architecture.vocabulary_size as u64);
    let queries = widest_attention(architecture, Attention::query_rows)
        .max(widest_delta(architecture, |delta| delta.channels().max(delta.value_width())));
    let keys = widest_attention(architecture, Attention::key_value_width)
        .max(widest_delta(architecture, |delta| delta.value_heads));
    let per_layer = architecture.per_layer_input.unwrap_or(0) as u64;
    let feed_forward = widest(architecture, |layer| layer.feed_forward.size)
        .max(widest_delta(architecture, DeltaNet::value_width))
        .max(per_layer);
    let head_size = widest_attention(architecture, |attention| attention.head_size);
    let group = widest_attention(architecture, |attention| attention.heads / attention.key_value_heads);
    let draft = if architecture.draft.is_some() { 2 * hidden } else { 0 };
    let columns = hidden.max(queries).max(feed_forward).max(draft).next_multiple_of(2 * GROUP as u64);

    let inputs = per_layer * architecture.layers.len() as u64;
    let floats = 4 * hidden + 3 * queries.max(draft) + 2 * keys + 2 * feed_forward + inputs;
    let buffers = FLOAT * rows * floats + experts_bytes(architecture, rows, hidden);
    let logits = FLOAT * plan.logits_rows as u64 * vocabulary;
    let recurrent = (slots + kept_states(plan.slots) as u64) * state_bytes(architecture);
    // A byte for each code; a scale and two sums for each group.
    let quantized = GROWTH * rows * (columns + columns / GROUP as u64 * 12);
    // Chains of 16 rows for each activation row, and a panel or a row of dequantized weights.
    let products = GROWTH * FLOAT * (2 * 16 * rows + 16 * columns.max(256));
    // Keys and values of a page, and outputs and states of 16 queries of a group of heads.
    let page = PAGE_POSITIONS as u64;
    let attention = GROWTH * FLOAT * (2 * page * head_size + 2 * 16 * group * (head_size + 3));
    let rotations: u64 =
        architecture.rope.iter().map(|rope| GROWTH * FLOAT * (plan.context * rope.dimension) as u64).sum();
    let vectors: u64 = architecture.all_layers().map(|layer| FLOAT * vector_floats(layer, hidden)).sum();
    let recurrence = GROWTH * FLOAT * 32 * (rows + widest_delta(architecture, |delta| delta.key_size));
    // Changed logits, weights and candidates of the sampler.
    let sampler = 3 * FLOAT * vocabulary;
    // Of each token of a sequence: the token, the place before it of the same kind, and up to two places in their list.
    let drafters = GROWTH * FLOAT * 4 * slots * plan.context as u64;
    // Entries of shared blocks, were every page one.
    let entries = slots * (plan.context.div_ceil(PAGE_POSITIONS) as u64) * ENTRY_BYTES;
    buffers
        + logits
        + recurrent
        + quantized
        + threads * (products + attention + recurrence)
        + rotations
        + vectors
        + sampler
        + drafters
        + entries
}

/// What the pairs of tokens and experts of a full step take, their quantized inputs included.
fn experts_bytes(architecture: &Architecture, rows: u64, hidden: u64) -> u64 {
    let layers = architecture.all_layers().filter_map(|layer| layer.feed_forward.experts.as_ref());
    let bytes = layers.map(|experts| {
        let (count, used, size) = (experts.count as u64, experts.used as u64, experts.size as u64);
        let floats = 2 * hidden + count + used * (2 * hidden + 2 * size);
        let quantized = used * hidden.max(size) * 3 + used * 64;
        // The lists of pairs, and the buffers of each expert.
        rows * (4 * floats + 2 * quantized + used * 64) + count * 256
    });
    bytes.max().unwrap_or(0)
}

/// Norms, biases and other vectors of a layer, which are kept as `f32`.
fn vector_floats(layer: &Layer, hidden: u64) -> u64 {
    let mixer = match &layer.mixer {
        Mixer::Attention(attention) => {
            (attention.heads + 2 * attention.key_value_heads + 3) * attention.head_size
        }
        Mixer::DeltaNet(delta) => delta.channels() * delta.kernel + delta.value_size + 2 * delta.value_heads,
    };
    // A matrix of an expert is described by some words.
    let experts = layer.feed_forward.experts.as_ref().map_or(0, |experts| 3 * 24 * experts.count);
    10 * hidden + (mixer + experts) as u64
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        write!(
            f,
            "weights {:.0} MiB ({}), cache {:.0} MiB ({} positions, {:.1} KiB each), scratch {:.0} MiB: {:.0} MiB in \
             all; {} requests at once, context {}",
            mib(self.weight_bytes),
            self.weights.name(),
            mib(self.cache_bytes()),
            self.cache_positions,
            self.key_value_bytes_per_position as f64 / 1024.0,
            mib(self.scratch_bytes),
            mib(self.total_bytes()),
            self.slots,
            self.context,
        )
    }
}

#[cfg(test)]
mod tests;
