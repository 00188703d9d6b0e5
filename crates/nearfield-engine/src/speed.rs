//! How fast a model can decode: what a token reads, over how fast memory is read.

use std::time::Duration;

use nearfield_kernels::{
    KernelSet, KeyValueLayout, KeyValueType, PAGE_POSITIONS, ReadBuffer, ThreadPool, integer_peak,
    read_bandwidth,
};
use nearfield_model::{Architecture, Attention, Layer, LayerTensor, Model, TensorRole};

use crate::error::EngineError;
use crate::memory;
use crate::options::EngineOptions;
use crate::recurrent::state_bytes;

/// Bytes of the buffer that is read to measure memory: several times the caches of processors on desks.
const PROBE_BYTES: u64 = 256 << 20;

/// How long the measurement of memory takes, without filling the buffer.
const PROBE_TIME: Duration = Duration::from_millis(300);

/// The share of memory's limit that decoding reaches: from 0.73 to 0.79 with four models from 135 million to 1.5
/// billion parameters, read beside `bench` on the machine of `docs/benchmarks.md`.
pub const DECODE_SHARE: f64 = 0.75;

/// What decoding one token reads from memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeReads {
    /// Bytes of weights: those of a draft head and of experts that are not chosen are not read, and of a table with a
    /// row for each token only that row is, unless it is the output head too.
    pub weight_bytes: u64,
    /// Bytes of recurrent state, which does not grow.
    pub state_bytes: u64,
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
        let (architecture, tensors) = (model.architecture(), model.tensors());
        Self::from_sizes(architecture, tensors.is_head_tied(), tensors.sizes(), kind)
    }

    /// As [`DecodeReads::for_model`] for a model of which the sizes of all tensors are known. `tied` says that the token
    /// embedding is the output head too.
    pub fn from_sizes(
        architecture: &Architecture,
        tied: bool,
        sizes: impl Iterator<Item = (TensorRole, u64)>,
        kind: KeyValueType,
    ) -> Self {
        let read = |(role, bytes)| bytes as f64 * share_read(architecture, tied, role);
        Self::new(architecture, sizes.map(read).sum::<f64>().round() as u64, kind)
    }

    /// As [`DecodeReads::for_model`] for a model that is not here, of which the bytes of weights that a token reads are
    /// known.
    pub fn new(architecture: &Architecture, weight_bytes: u64, kind: KeyValueType) -> Self {
        let layer = |layer: &Attention| {
            let page = KeyValueLayout::new(kind, layer.key_value_heads, layer.head_size).page_bytes();
            LayerReads { bytes_per_position: (page / PAGE_POSITIONS) as u64, window: layer.window }
        };
        Self {
            weight_bytes,
            state_bytes: state_bytes(architecture),
            // A layer that shares another's keys and values reads them too.
            layers: architecture.layers.iter().filter_map(Layer::attention).map(layer).collect(),
        }
    }

    /// Bytes of keys and values that the token at a position reads; layers with a window read no further back.
    pub fn key_value_bytes(&self, position: usize) -> u64 {
        let seen = |window: Option<usize>| window.map_or(position, |window| window.min(position)) as u64;
        self.layers.iter().map(|layer| layer.bytes_per_position.saturating_mul(seen(layer.window))).sum()
    }

    /// Tokens a second at a position, when memory gives `bandwidth` bytes a second and nothing else takes time: the
    /// limit, of which decoding reaches about [`DECODE_SHARE`].
    pub fn limit(&self, position: usize, bandwidth: f64) -> f64 {
        let bytes = self.weight_bytes + self.state_bytes + self.key_value_bytes(position);
        bandwidth / (bytes as f64).max(1.0)
    }
}

/// The share of a tensor that one token reads.
fn share_read(architecture: &Architecture, tied: bool, role: TensorRole) -> f64 {
    match role {
        TensorRole::TokenEmbedding if !tied => 0.0,
        TensorRole::PerLayerEmbedding | TensorRole::Draft(_) => 0.0,
        TensorRole::Layer { index, .. } if index >= architecture.layers.len() => 0.0,
        TensorRole::Layer { index, part: LayerTensor::Expert { .. } } => {
            let experts = architecture.layer(index).and_then(|layer| layer.feed_forward.experts.as_ref());
            experts.map_or(1.0, |experts| experts.used as f64 / experts.count.max(1) as f64)
        }
        _ => 1.0,
    }
}

/// Operations (products and sums) that one token of a prompt needs in the products with matrices of the layers; the head
/// is computed for the last token only, and attention is not counted.
pub fn prefill_operations(model: &Model) -> f64 {
    let (architecture, tensors) = (model.architecture(), model.tensors());
    let layers = tensors.shapes().filter(|(role, _)| matches!(role, TensorRole::Layer { .. }));
    let operations = |(role, (rows, columns)): (TensorRole, (usize, usize))| {
        let matrix = if rows > 1 { 2.0 * rows as f64 * columns as f64 } else { 0.0 };
        matrix * share_read(architecture, true, role)
    };
    layers.map(operations).sum()
}

/// What this machine could do at best, measured beside what the engine does.
#[derive(Debug)]
pub struct LimitProbe {
    pool: ThreadPool,
    buffer: ReadBuffer,
    kernels: KernelSet,
}

impl LimitProbe {
    /// A probe that reads `bytes` of memory, of pages like those of weights, with the options' threads.
    ///
    /// # Errors
    /// When the system refuses memory or threads.
    pub fn new(options: &EngineOptions, kernels: KernelSet, bytes: u64) -> Result<Self, EngineError> {
        let buffer = ReadBuffer::new(usize::try_from(bytes).unwrap_or(usize::MAX)).map_err(|_| {
            EngineError::OutOfMemory { needed: bytes, available: memory::available().unwrap_or(0) }
        })?;
        Ok(Self { pool: ThreadPool::new(options.thread_count())?, buffer, kernels })
    }

    /// Times a second that all of the buffer is read.
    pub fn reads(&mut self) -> f64 {
        let bytes = self.buffer.bytes();
        read_bandwidth(&mut self.pool, bytes, PROBE_TIME) / (bytes.len() as f64).max(1.0)
    }

    /// Operations a second with 8-bit integers; `None` where the kernel set has no dot product of 512 bits.
    pub fn integer_operations(&mut self) -> Option<f64> {
        integer_peak(&mut self.pool, self.kernels, PROBE_TIME)
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

    /// Bytes of the tensors whose role fits.
    fn bytes_of(model: &Model, fits: impl Fn(TensorRole) -> bool) -> u64 {
        model.tensors().sizes().filter(|(role, _)| fits(*role)).map(|(_, bytes)| bytes).sum()
    }

    #[test]
    fn an_embedding_counts_only_where_it_is_the_head() {
        let (mut tied, mut own) = (0, 0);
        for name in ["llama", "qwen2", "qwen3", "gemma3"] {
            let (model, reads) = reads(name);
            let tensors = model.tensors();
            let embedding = bytes_of(&model, |role| role == TensorRole::TokenEmbedding);
            if tensors.is_head_tied() {
                tied += 1;
                assert_eq!(reads.weight_bytes, tensors.total_bytes(), "{name}");
            } else {
                own += 1;
                assert_eq!(reads.weight_bytes, tensors.total_bytes() - embedding, "{name}");
            }
            assert_eq!(reads.state_bytes, 0, "{name}");
        }
        assert!(tied > 0 && own > 0, "both kinds are tried");
    }

    #[test]
    fn a_token_reads_few_experts_no_draft_head_and_a_state_of_fixed_size() {
        let (model, reads) = reads("qwen3_5_moe");
        let layers = model.architecture().layers.len();
        let in_layers = |role| matches!(role, TensorRole::Layer { index, .. } if index < layers);
        let is_expert = |role| {
            matches!(role, TensorRole::Layer { part: LayerTensor::Expert { .. }, .. }) && in_layers(role)
        };
        let draft = bytes_of(&model, |role| {
            matches!(role, TensorRole::Draft(_))
                || matches!(role, TensorRole::Layer { index, .. } if index >= layers)
        });
        let embedding = bytes_of(&model, |role| role == TensorRole::TokenEmbedding);
        let experts = model.architecture().layers[0].feed_forward.experts.clone().unwrap();
        let all = bytes_of(&model, is_expert);
        let read = all * experts.used as u64 / experts.count as u64;
        assert!(read < all);
        let unread = all - read + draft + if model.tensors().is_head_tied() { 0 } else { embedding };
        assert_eq!(reads.weight_bytes, model.tensors().total_bytes() - unread);
        assert!(reads.state_bytes > 0);
        let bytes = reads.weight_bytes + reads.state_bytes;
        assert_eq!(reads.limit(0, 3.0 * bytes as f64), 3.0);
    }

    #[test]
    fn a_prompt_token_needs_two_operations_for_each_weight_of_the_layers() {
        let (model, _) = reads("llama");
        let layers = model.tensors().shapes().filter(|(role, _)| matches!(role, TensorRole::Layer { .. }));
        let weights: usize =
            layers.map(|(_, (rows, columns))| if rows > 1 { rows * columns } else { 0 }).sum();
        assert!(weights > 0);
        assert_eq!(prefill_operations(&model), 2.0 * weights as f64);
    }

    #[test]
    fn a_probe_reads_its_buffer() {
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        let mut probe = LimitProbe::new(&options, KernelSet::Scalar, 1 << 20).unwrap();
        assert!(probe.reads() > 1.0);
        assert_eq!(probe.integer_operations(), None);
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
