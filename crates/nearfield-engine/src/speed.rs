//! How fast a model can decode: what a token reads, over how fast memory is read.

use std::time::Duration;

use nearfield_kernels::{KeyValueLayout, KeyValueType, PAGE_POSITIONS, ThreadPool, read_bandwidth};
use nearfield_model::{Architecture, Model, TensorRole};

use crate::error::EngineError;
use crate::memory;
use crate::options::EngineOptions;

/// Bytes of the buffer that is read to measure memory: several times the caches of processors on desks.
const PROBE_BYTES: u64 = 256 << 20;

/// How long the measurement of memory takes, without filling the buffer.
const PROBE_TIME: Duration = Duration::from_millis(300);

/// The share of memory's limit that decoding reaches: from 0.73 to 0.79 with four models from 135 million to 1.5
/// billion parameters, read beside `bench` on the machine of `docs/measured.md`.
pub const DECODE_SHARE: f64 = 0.75;

/// What decoding one token reads from memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeReads {
    /// Bytes of weights: all that the model has but the token embedding, of which one row is read, unless it is the
    /// output head too.
    pub weight_bytes: u64,
    layers: Vec<LayerReads>,
}

/// The keys and values of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LayerReads {
    bytes_per_position: u64,
    window: Option<usize>,
}

impl DecodeReads {
    /// What a token of an open model reads.
    pub fn for_model(model: &Model, kind: KeyValueType) -> Self {
        let tensors = model.tensors();
        let embedding = tensors.optional_matrix(TensorRole::TokenEmbedding);
        let embedding = embedding.filter(|_| !tensors.is_head_tied()).map_or(0, |matrix| matrix.bytes.len());
        Self::new(model.architecture(), tensors.total_bytes().saturating_sub(embedding as u64), kind)
    }

    /// As [`DecodeReads::for_model`] for a model that is not here, of which the bytes of weights that a token reads are
    /// known.
    pub fn new(architecture: &Architecture, weight_bytes: u64, kind: KeyValueType) -> Self {
        let layer = |layer: &nearfield_model::Layer| {
            let page = KeyValueLayout::new(kind, layer.key_value_heads, layer.head_size).page_bytes();
            LayerReads { bytes_per_position: (page / PAGE_POSITIONS) as u64, window: layer.window }
        };
        Self { weight_bytes, layers: architecture.layers.iter().map(layer).collect() }
    }

    /// Bytes of keys and values that the token at a position reads; layers with a window read no further back.
    pub fn key_value_bytes(&self, position: usize) -> u64 {
        let seen = |window: Option<usize>| window.map_or(position, |window| window.min(position)) as u64;
        self.layers.iter().map(|layer| layer.bytes_per_position.saturating_mul(seen(layer.window))).sum()
    }

    /// Tokens a second at a position, when memory gives `bandwidth` bytes a second and nothing else takes time: the
    /// limit, of which decoding reaches about [`DECODE_SHARE`].
    pub fn limit(&self, position: usize, bandwidth: f64) -> f64 {
        let bytes = self.weight_bytes.saturating_add(self.key_value_bytes(position));
        bandwidth / (bytes as f64).max(1.0)
    }
}

/// Bytes a second that this machine's memory gives to the threads that the options say, measured in about half a
/// second with a buffer of 256 MiB, or of an eighth of the available memory where that is less.
///
/// # Errors
/// When the system refuses threads.
pub fn memory_bandwidth(options: &EngineOptions) -> Result<f64, EngineError> {
    let available = memory::available().unwrap_or(u64::MAX);
    let bytes = usize::try_from(PROBE_BYTES.min(available / 8)).unwrap_or_default();
    let mut pool = ThreadPool::new(options.thread_count())?;
    // Written with something else than zeros, so that every page is there.
    Ok(read_bandwidth(&mut pool, &vec![1; bytes], PROBE_TIME))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn reads(name: &str) -> (Model, DecodeReads) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let model = Model::open(&folder).unwrap();
        let reads = DecodeReads::for_model(&model, KeyValueType::F16);
        (model, reads)
    }

    #[test]
    fn an_embedding_counts_only_where_it_is_the_head() {
        let (mut tied, mut own) = (0, 0);
        for name in ["llama", "qwen2", "qwen3", "gemma3"] {
            let (model, reads) = reads(name);
            let tensors = model.tensors();
            let embedding = tensors.matrix(TensorRole::TokenEmbedding).unwrap().bytes.len() as u64;
            if tensors.is_head_tied() {
                tied += 1;
                assert_eq!(reads.weight_bytes, tensors.total_bytes(), "{name}");
            } else {
                own += 1;
                assert_eq!(reads.weight_bytes, tensors.total_bytes() - embedding, "{name}");
            }
        }
        assert!(tied > 0 && own > 0, "both kinds are tried");
    }

    #[test]
    fn windows_bound_what_a_layer_reads() {
        // Four layers, keys and values of 2 heads of 16 halves, none with a window.
        let (_, llama) = reads("llama");
        assert_eq!(llama.key_value_bytes(100), 4 * 2 * 2 * 16 * 2 * 100);
        // Six layers with one head of 16, of which every third sees more than 16 positions.
        let (_, gemma) = reads("gemma3");
        assert_eq!(gemma.key_value_bytes(100), 2 * 16 * 2 * (2 * 100 + 4 * 16));
        assert_eq!(gemma.key_value_bytes(10), 2 * 16 * 2 * 6 * 10);
        let bytes = (gemma.weight_bytes + gemma.key_value_bytes(100)) as f64;
        assert_eq!(gemma.limit(100, 2.0 * bytes), 2.0);
    }
}
