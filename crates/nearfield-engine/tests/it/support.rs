//! Fixtures, and short ways to run them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nearfield_engine::{Arithmetic, Chunk, KernelSet, KeyValueType, LogitsWanted, Runner, RunnerOptions};
use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::{PlainTensor, read_safetensors};

/// Those with dense layers of attention only.
pub(crate) const FIXTURES: [&str; 6] = ["llama", "smollm2", "qwen2", "qwen3", "gemma3", "gemma3_nested"];

/// Every fixture that the engine runs.
pub(crate) const ALL: [&str; 11] = [
    "llama",
    "smollm2",
    "qwen2",
    "qwen3",
    "gemma3",
    "gemma3_nested",
    "gemma4_ple",
    "gemma4_dense",
    "gemma4_moe",
    "qwen3_5",
    "qwen3_5_moe",
];

/// The folder of a fixture.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What another implementation computed from a fixture.
pub(crate) struct Reference {
    tensors: HashMap<String, PlainTensor>,
}

impl Reference {
    pub(crate) fn of(name: &str) -> Self {
        Self::in_folder(&folder(name))
    }

    pub(crate) fn in_folder(folder: &Path) -> Self {
        let tensors = read_safetensors(&folder.join("reference.safetensors")).unwrap();
        Self { tensors: tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect() }
    }

    pub(crate) fn tokens(&self, name: &str) -> Vec<u32> {
        self.tensors[name].values.iter().map(|id| *id as u32).collect()
    }

    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].values
    }

    /// The rows of a matrix.
    pub(crate) fn rows(&self, name: &str) -> Vec<&[f32]> {
        let tensor = &self.tensors[name];
        tensor.values.chunks_exact(tensor.shape[1]).collect()
    }
}

/// `f32` throughout, on the fastest kernels.
pub(crate) fn exact() -> RunnerOptions {
    RunnerOptions {
        threads: 1,
        key_value_type: KeyValueType::F32,
        arithmetic: Arithmetic::Exact,
        kernels: None,
        cache_positions: 512,
    }
}

/// What callers get by default, on the definition of the bits.
pub(crate) fn plain() -> RunnerOptions {
    RunnerOptions {
        threads: 1,
        key_value_type: KeyValueType::F16,
        arithmetic: Arithmetic::Default,
        kernels: Some(KernelSet::Scalar),
        cache_positions: 2_048,
    }
}

/// The logits of every token of a prompt, fed in pieces of these lengths; the last is repeated as often as needed.
pub(crate) fn logits(
    model: &Model,
    options: &RunnerOptions,
    prompt: &[u32],
    pieces: &[usize],
) -> Vec<Vec<f32>> {
    let mut runner = Runner::new(model, options).unwrap();
    feed(&mut runner, prompt, pieces)
}

/// As [`logits`], with a runner that is there already.
pub(crate) fn feed(runner: &mut Runner<'_>, prompt: &[u32], pieces: &[usize]) -> Vec<Vec<f32>> {
    let mut sequence = runner.open(prompt.len()).unwrap();
    let mut rows = Vec::new();
    let mut lengths = pieces.iter().copied().chain(std::iter::repeat(*pieces.last().unwrap()));
    let mut rest = prompt;
    while !rest.is_empty() {
        let (tokens, after) = rest.split_at(lengths.next().unwrap().min(rest.len()));
        let mut chunk = [Chunk { sequence: &mut sequence, tokens, logits: LogitsWanted::All }];
        let logits = runner.step(&mut chunk).unwrap();
        rows.extend((0..logits.rows()).map(|row| logits.row(row).to_vec()));
        rest = after;
    }
    runner.close(sequence);
    rows
}

/// The likeliest token; of equal ones the lower.
pub(crate) fn likeliest(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == largest).unwrap() as u32
}

/// The likeliest continuation of a prompt.
pub(crate) fn greedy(model: &Model, options: &RunnerOptions, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut runner = Runner::new(model, options).unwrap();
    let mut sequence = runner.open(prompt.len() + count).unwrap();
    let mut tokens = prompt.to_vec();
    let mut answer = Vec::new();
    while answer.len() < count {
        let mut chunk = [Chunk { sequence: &mut sequence, tokens: &tokens, logits: LogitsWanted::Last }];
        let next = likeliest(runner.step(&mut chunk).unwrap().row(0));
        answer.push(next);
        tokens = vec![next];
    }
    answer
}

/// The bits of logits.
pub(crate) fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|value| value.to_bits()).collect()
}
