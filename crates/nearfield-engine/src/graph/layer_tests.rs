//! The default arithmetic layer by layer, against another implementation with the same roundings. Each layer is fed with
//! the exact states before it: over a whole model one activation that is rounded the other way, as a difference in the
//! seventh digit suffices for, changes more than what is to be compared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nearfield_kernels::KeyValueType;
use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::read_safetensors;

use super::Rows;
use crate::runner::{Arithmetic, Chunk, LogitsWanted, Runner, RunnerOptions};

/// Most of the distance between exact and default arithmetic that a layer may be away from the other implementation.
const SHARE: f32 = 0.2;
/// As far as implementations differ that round nothing.
const NOISE: f32 = 1e-5;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures_quantized");
    let folders = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    };
    folders(&folder).iter().flat_map(|family| folders(family)).collect()
}

fn tensors(path: &Path) -> HashMap<String, Vec<f32>> {
    read_safetensors(path).unwrap().into_iter().map(|tensor| (tensor.name, tensor.values)).collect()
}

/// What each layer makes of the state that stands before it.
fn layers(model: &Model, arithmetic: Arithmetic, tokens: &[u32], inputs: &[&Vec<f32>]) -> Vec<Vec<f32>> {
    let options = RunnerOptions {
        threads: 2,
        key_value_type: if arithmetic == Arithmetic::Exact { KeyValueType::F32 } else { KeyValueType::F16 },
        arithmetic,
        kernels: None,
        cache_positions: 64,
    };
    let mut runner = Runner::new(model, &options).unwrap();
    let mut sequence = runner.open(tokens.len()).unwrap();
    let (graph, cache) = runner.parts();
    assert!(cache.extend(&mut sequence, tokens.len()));
    let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitsWanted::All }];
    let rows = Rows::of(&chunks);
    for rope in &mut graph.ropes {
        rope.reach(rows.reached());
    }
    graph.buffers.kept.begin(graph.architecture, &chunks);
    graph.embed(&chunks);
    graph.per_layer_inputs(&chunks);
    let outputs = inputs.iter().enumerate().map(|(index, input)| {
        graph.buffers.stream.clone_from(input);
        graph.layer(index, cache, &mut chunks, &rows);
        graph.buffers.stream.clone()
    });
    outputs.collect()
}

fn mean_difference(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).sum::<f32>() / one.len() as f32
}

#[test]
fn every_layer_rounds_as_the_page_says() {
    let (mut compared, mut rounding) = (0, 0);
    for folder in fixtures() {
        let model = Model::open(&folder).unwrap();
        let reference = tensors(&folder.join("reference.safetensors"));
        let golden = tensors(&folder.join("layers.safetensors"));
        let count = model.architecture().layers.len();
        let inputs: Vec<_> = (0..=count).map(|index| &golden[&format!("input.{index}")]).collect();
        let rows = inputs[0].len() / model.architecture().hidden_size;
        let tokens: Vec<u32> = reference["a.input_ids"][..rows].iter().map(|id| *id as u32).collect();
        let default = layers(&model, Arithmetic::Default, &tokens, &inputs[..count]);
        let exact = layers(&model, Arithmetic::Exact, &tokens, &inputs[..count]);
        for (index, (default, exact)) in default.iter().zip(&exact).enumerate() {
            let what = format!("{}, layer {index}", folder.display());
            let (same, wanted) = (&golden[&format!("default.{index}")], inputs[index + 1]);
            let distance = mean_difference(same, wanted);
            let off = mean_difference(default, same);
            assert!(off <= (SHARE * distance).max(NOISE), "{what}: {off} of {distance}");
            let off = mean_difference(exact, wanted);
            assert!(off <= NOISE, "{what}, exact: {off}");
            compared += 1;
            rounding += usize::from(distance > 100.0 * NOISE);
        }
    }
    assert!(compared >= 40 && rounding >= 20, "{compared} layers, {rounding} of which round");
}
