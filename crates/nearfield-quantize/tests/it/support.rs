//! The fixture and runners over it.

use std::path::PathBuf;

use nearfield_engine::{Arithmetic, KeyValueType, Runner, RunnerOptions};
use nearfield_model::Model;
use safetensors::SafeTensors;

/// A checkpoint of random weights with the logits that transformers computes from it.
pub(crate) fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nearfield-engine/tests/fixtures/qwen3")
}

/// A runner with 32-bit arithmetic, keys and values.
pub(crate) fn runner(model: &Model, positions: usize) -> Runner<'_> {
    with(model, positions, Arithmetic::Exact, KeyValueType::F32)
}

pub(crate) fn with(
    model: &Model,
    positions: usize,
    arithmetic: Arithmetic,
    key_value_type: KeyValueType,
) -> Runner<'_> {
    let options =
        RunnerOptions { threads: 1, key_value_type, arithmetic, kernels: None, cache_positions: positions };
    Runner::new(model, &options).unwrap()
}

/// The reference's tokens and logits, row by row.
pub(crate) fn reference() -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(fixture().join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = words(file.tensor("a.input_ids").unwrap().data(), u32::from_le_bytes);
    let logits = words(file.tensor("a.logits").unwrap().data(), f32::from_le_bytes);
    (tokens, logits)
}

fn words<T>(bytes: &[u8], read: impl Fn([u8; 4]) -> T) -> Vec<T> {
    bytes.as_chunks::<4>().0.iter().map(|word| read(*word)).collect()
}
