//! The header of a safetensors file in a folder with a small configuration.
#![no_main]

use std::{path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use nearfield_model::Model;
use tempfile::TempDir;

const CONFIG: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
    "vocab_size": 8, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;

static FOLDER: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("config.json"), CONFIG).expect("a file in it");
    let path = folder.path().join("model.safetensors");
    (folder, path)
});

fuzz_target!(|bytes: &[u8]| {
    let (folder, path) = &*FOLDER;
    std::fs::write(path, bytes).expect("a file in the folder");
    let _ = Model::open(folder.path());
});
