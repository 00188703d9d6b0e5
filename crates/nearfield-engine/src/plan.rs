//! The one account of memory: computed before anything is allocated, printed, then kept to.

use nearfield_kernels::{KeyValueLayout, KeyValueType, PAGE_POSITIONS};
use nearfield_model::Architecture;

/// What a loaded model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the model's tensors; they stay memory-mapped.
    pub weight_bytes: u64,
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
    /// Bytes of intermediate results.
    pub scratch_bytes: u64,
}

impl Plan {
    /// Plans a model.
    pub fn new(
        architecture: &Architecture,
        weight_bytes: u64,
        kind: KeyValueType,
        context: usize,
        slots: usize,
        rows: usize,
        cache_positions: usize,
    ) -> Self {
        let page: u64 = architecture
            .layers
            .iter()
            .map(|layer| {
                KeyValueLayout::new(kind, layer.key_value_heads, layer.head_size).page_bytes() as u64
            })
            .sum();
        let widest = architecture
            .layers
            .iter()
            .map(|layer| {
                let attention = (layer.heads + layer.key_value_heads) * 2 * layer.head_size;
                attention + 2 * layer.feed_forward_size
            })
            .max()
            .unwrap_or(0);
        let columns = 4 * architecture.hidden_size + 2 * widest;
        let logits = slots * architecture.vocabulary_size;
        Self {
            weight_bytes,
            key_value_bytes_per_position: page / PAGE_POSITIONS as u64,
            cache_positions: cache_positions.div_ceil(PAGE_POSITIONS) * PAGE_POSITIONS,
            context,
            slots,
            rows,
            scratch_bytes: 4 * (rows * columns + logits) as u64,
        }
    }

    /// Bytes of the whole cache of keys and values.
    pub fn cache_bytes(&self) -> u64 {
        self.key_value_bytes_per_position * self.cache_positions as u64
    }

    /// Everything together.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.cache_bytes() + self.scratch_bytes
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        write!(
            f,
            "weights {:.0} MiB (mapped), cache {:.0} MiB ({} positions, {:.1} KiB each), scratch {:.0} MiB: {:.0} MiB in \
             all; {} requests at once, context {}",
            mib(self.weight_bytes),
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
