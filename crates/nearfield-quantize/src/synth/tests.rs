use nearfield_engine::{Chunk, LogitsWanted, Runner, RunnerOptions};
use nearfield_kernels::KeyValueType;
use nearfield_model::{Model, Text};

use super::*;

/// A small shape: that of a fixture of the engine, with room for the vocabulary and rows of whole blocks.
fn small(name: &str) -> SynthModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nearfield-engine/tests/fixtures").join(name);
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let own_head = config["tie_word_embeddings"] == false;
    let inner = config["text_config"].as_object_mut().unwrap();
    for (key, value) in [
        ("vocab_size", 320),
        ("vocab_size_per_layer_input", 320),
        ("moe_intermediate_size", 64),
        ("expert_intermediate_size", 64),
        ("shared_expert_intermediate_size", 64),
        ("intermediate_size", 64),
        ("hidden_size_per_layer_input", 64),
        // As many key heads as value heads, whose order is the same in both kinds of file.
        ("linear_num_value_heads", 4),
        ("linear_num_key_heads", 4),
    ] {
        if inner.get(key).is_some_and(|found| found.as_u64().is_some_and(|found| found > 0)) {
            inner.insert(key.to_owned(), value.into());
        }
    }
    let architecture = Architecture::from_config(&folder, &config).unwrap();
    SynthModel { config, architecture, own_head }
}

fn logits(path: &Path) -> Vec<u32> {
    let model = Model::open(path).unwrap();
    let options = RunnerOptions {
        threads: 1,
        key_value_type: KeyValueType::F16,
        arithmetic: nearfield_engine::Arithmetic::Default,
        kernels: None,
        cache_positions: 64,
    };
    let mut runner = Runner::new(&model, &options).unwrap();
    let mut sequence = runner.open(64).unwrap();
    let tokens = [104, 101, 108, 108, 111, 300];
    let mut chunks = [Chunk { sequence: &mut sequence, tokens: &tokens, logits: LogitsWanted::Last }];
    let values: Vec<f32> = runner.step(&mut chunks).unwrap().row(0).to_vec();
    assert!(values.iter().all(|value| value.is_finite()));
    let spread = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    assert!((1e-4..100.0).contains(&spread), "logits have a spread of {spread}");
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn both_kinds_of_file_hold_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["qwen3_5", "qwen3_5_moe", "gemma4_ple", "gemma4_moe"] {
        let model = small(name);
        for (format, tables) in [
            (SynthFormat::Nvfp4, SynthFormat::Bf16),
            (SynthFormat::Mxfp4, SynthFormat::Nvfp4),
            (SynthFormat::Bf16, SynthFormat::Bf16),
        ] {
            let options = SynthOptions { format, tables, seed: 1 };
            let (one, other) = (folder.path().join(name), folder.path().join(format!("{name}.gguf")));
            for path in [&one, &other] {
                let mut bytes = 0;
                write(&model, &options, path, &mut |more| {
                    bytes += more;
                    Ok(())
                })
                .unwrap();
                assert_eq!(bytes, tensor_bytes(&model, &options, path).unwrap());
                let text = Text::open(path).unwrap();
                assert_eq!(text.tokenizer().vocabulary_size(), 320);
            }
            assert_eq!(logits(&one), logits(&other), "{name} in {format:?}");
            let again = folder.path().join("again.gguf");
            write(&model, &options, &again, &mut |_| Ok(())).unwrap();
            assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&other).unwrap());
            let there = write(&model, &options, &again, &mut |_| Ok(()));
            assert!(matches!(there, Err(SynthError::Exists { .. })));
            std::fs::remove_dir_all(one).unwrap();
            std::fs::remove_file(other).unwrap();
            std::fs::remove_file(again).unwrap();
        }
    }
}

#[test]
fn every_format_can_be_computed() {
    let folder = tempfile::tempdir().unwrap();
    let model = small("qwen3_5");
    for (format, name) in
        [(SynthFormat::Fp8, "fp8"), (SynthFormat::Q4_0, "q4.gguf"), (SynthFormat::Q8_0, "q8.gguf")]
    {
        let path = folder.path().join(name);
        let options = SynthOptions { format, tables: SynthFormat::Bf16, seed: 2 };
        write(&model, &options, &path, &mut |_| Ok(())).unwrap();
        logits(&path);
    }
}

#[test]
fn formats_that_a_file_has_not_and_work_that_ends_early_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = small("qwen3_5");
    for (format, name) in [(SynthFormat::Fp8, "a.gguf"), (SynthFormat::Q4_0, "b")] {
        let options = SynthOptions { format, tables: SynthFormat::Bf16, seed: 1 };
        let wrong = write(&model, &options, &folder.path().join(name), &mut |_| Ok(()));
        assert!(matches!(wrong, Err(SynthError::Format { .. })), "{name}");
    }
    let options = SynthOptions { format: SynthFormat::Bf16, tables: SynthFormat::Bf16, seed: 1 };
    for name in ["a.gguf", "b"] {
        let stopped =
            write(&model, &options, &folder.path().join(name), &mut |_| Err(std::io::Error::other("stop")));
        assert!(stopped.unwrap_err().to_string().contains("stop"));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
