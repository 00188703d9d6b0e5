//! The bits of numerics version 1, as digests of logits: every processor, compiler and later version of this code must
//! compute them again. Who changes one on purpose raises the version in `docs/numerics.md`.

use std::path::PathBuf;

use nearfield_engine::{Chunk, LogitsWanted, Runner, RunnerOptions};
use nearfield_model::Model;

use crate::same_bytes::models;
use crate::support::{ALL, Reference, likeliest, logits, plain};

/// Of [`a_real_model_has_the_bits_of_version_1`].
const SMOLLM2: &str = "6e578241e0d3520f";

const FIXTURE_LOGITS: &[&str] = &[
    "llama as published 7bf4ebfc6bb8b1bf",
    "llama quantized 339d2d288301ea88",
    "smollm2 as published c196790266409dc3",
    "smollm2 quantized 20038f4216be9b71",
    "qwen2 as published 623caf40bc4925eb",
    "qwen2 quantized 4cccd00c4eff1776",
    "qwen3 as published 44771e43c4627d41",
    "qwen3 quantized 25cc0398cba5edfb",
    "gemma3 as published 854be59dc0b1fccc",
    "gemma3 quantized 412a6a1eb42b32ed",
    "gemma3_nested as published eb582c1337efb4d9",
    "gemma3_nested quantized 73c0fb87cad7663d",
    "gemma4_ple as published ecb2668f852e503e",
    "gemma4_ple quantized 1113c9d749463bb9",
    "gemma4_dense as published e93b6bf0eb02abce",
    "gemma4_dense quantized 7af688727d84110a",
    "gemma4_moe as published 2afe223d6c688d95",
    "gemma4_moe quantized 31b881425d0bd62a",
    "qwen3_5 as published d6b5564e4f52676e",
    "qwen3_5 quantized 3cebf8b6da81aa7d",
    "qwen3_5_moe as published 18929a1f55452cfa",
    "qwen3_5_moe quantized 0ed523f44eb220b9",
];

/// FNV-1a over the bytes of the logits.
fn digest(rows: &[Vec<f32>]) -> String {
    let bytes = rows.iter().flatten().flat_map(|value| value.to_bits().to_le_bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    format!("{hash:016x}")
}

/// What callers get by default, on the fastest kernels.
fn fastest() -> RunnerOptions {
    RunnerOptions { kernels: None, threads: 2, ..plain() }
}

#[test]
fn fixtures_have_the_bits_of_version_1() {
    let mut got = Vec::new();
    for name in ALL {
        let prompt = Reference::of(name).tokens("c.input_ids");
        for (what, model) in models(name) {
            got.push(format!("{what} {}", digest(&logits(&model, &fastest(), &prompt, &[100]))));
        }
    }
    assert_eq!(got, FIXTURE_LOGITS, "a new model gets a line here; a line that changes is a new version");
}

/// A prompt of 16 tokens in one piece, then 8 of the likeliest continuation, one by one.
#[test]
fn a_real_model_has_the_bits_of_version_1() {
    let Some(path) = std::env::var_os("NEARFIELD_TEST_MODELS")
        .map(|folder| PathBuf::from(folder).join("smollm2-135m.gguf"))
        .filter(|path| path.exists())
    else {
        assert!(std::env::var_os("CI").is_none(), "NEARFIELD_TEST_MODELS has no smollm2-135m.gguf");
        eprintln!("skipped: NEARFIELD_TEST_MODELS does not name a folder with smollm2-135m.gguf");
        return;
    };
    let model = Model::open(&path).unwrap();
    let mut tokens: Vec<u32> = (0..16).map(|i| 1_000 + 37 * i * i % 9_000).collect();
    let mut runner = Runner::new(&model, &fastest()).unwrap();
    let mut sequence = runner.open(24).unwrap();
    let mut rows = Vec::new();
    for _ in 0..9 {
        let mut chunk = [Chunk { sequence: &mut sequence, tokens: &tokens, logits: LogitsWanted::All }];
        let logits = runner.step(&mut chunk).unwrap();
        rows.extend((0..logits.rows()).map(|row| logits.row(row).to_vec()));
        tokens = vec![likeliest(rows.last().unwrap())];
    }
    assert_eq!(digest(&rows), SMOLLM2);
}
