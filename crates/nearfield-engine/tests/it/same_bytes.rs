//! The same bytes: kernels, threads, pieces and neighbours change nothing.

use std::path::Path;

use nearfield_engine::{
    Arithmetic, Chunk, KernelSet, KeyValueType, LogitsWanted, Runner, RunnerOptions, Sequence,
};
use nearfield_kernels::f32_to_f16;
use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::{MatrixStorage, convert_checkpoint_with};

use crate::support::{ALL, Reference, bits, feed, folder, logits, plain};

/// A fixture as published, and as a GGUF file with its matrices in integer formats where their width allows it.
pub(crate) fn models(name: &str) -> Vec<(String, Model)> {
    let published = (format!("{name} as published"), Model::open(&folder(name)).unwrap());
    let writer = convert_checkpoint_with(&folder(name), &mut integer_storage);
    let bytes = writer.unwrap().build();
    let quantized = Model::from_gguf_bytes(Path::new("quantized.gguf"), bytes).unwrap();
    vec![published, (format!("{name} quantized"), quantized)]
}

/// A matrix in an integer format, where its width allows it.
pub(crate) fn integer_storage(matrix: &str, columns: usize, values: &[f32]) -> (u32, Vec<u8>) {
    if !columns.is_multiple_of(32) {
        MatrixStorage::F16.encode(values)
    } else if matrix.contains("ffn") {
        q4_1(values)
    } else {
        q8_0(values)
    }
}

/// Blocks of 32: a scale, 32 signed bytes.
fn q8_0(values: &[f32]) -> (u32, Vec<u8>) {
    let mut bytes = Vec::new();
    for block in values.chunks_exact(32) {
        let scale = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
        bytes.extend(f32_to_f16(scale).to_le_bytes());
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        bytes.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
    }
    (8, bytes)
}

/// Blocks of 32: a scale, a minimum, 16 bytes with two codes each.
fn q4_1(values: &[f32]) -> (u32, Vec<u8>) {
    let mut bytes = Vec::new();
    for block in values.chunks_exact(32) {
        let least = block.iter().copied().fold(f32::INFINITY, f32::min);
        let most = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = (most - least) / 15.0;
        bytes.extend(f32_to_f16(scale).to_le_bytes());
        bytes.extend(f32_to_f16(least).to_le_bytes());
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let code = |x: f32| ((x - least) * inverse).round() as u8;
        bytes.extend((0..16).map(|i| code(block[i]) | (code(block[16 + i]) << 4)));
    }
    (3, bytes)
}

#[test]
fn kernels_threads_and_pieces_change_nothing() {
    for name in ALL {
        let prompt = Reference::of(name).tokens("c.input_ids");
        for (what, model) in models(name) {
            let wanted = bits(&logits(&model, &plain(), &prompt, &[100]));
            for set in KernelSet::available() {
                for threads in [1, 2] {
                    let options = RunnerOptions { kernels: Some(set), threads, ..plain() };
                    let all: [&[usize]; 5] = [&[37, 1, 30, 32], &[1], &[100], &[3], &[16, 17]];
                    // The definition is slow, and one way through it is enough beside the one above.
                    let ways = if set == KernelSet::Scalar { &all[..threads - 1] } else { &all };
                    for pieces in ways {
                        let got = bits(&logits(&model, &options, &prompt, pieces));
                        assert!(got == wanted, "{what}: {} on {threads}, {pieces:?}", set.name());
                    }
                }
            }
        }
    }
}

#[test]
fn every_cache_type_and_both_arithmetics_keep_the_bytes() {
    let prompt = Reference::of("gemma3").tokens("c.input_ids");
    for (what, model) in models("gemma3") {
        let mut seen = Vec::new();
        for key_value_type in
            [KeyValueType::F32, KeyValueType::F16, KeyValueType::Bf16, KeyValueType::Q8, KeyValueType::F8]
        {
            for arithmetic in [Arithmetic::Default, Arithmetic::Exact] {
                let options = RunnerOptions { key_value_type, arithmetic, ..plain() };
                let wanted = bits(&logits(&model, &options, &prompt, &[100]));
                for set in KernelSet::available() {
                    let options = RunnerOptions { kernels: Some(set), threads: 2, ..options };
                    let got = bits(&logits(&model, &options, &prompt, &[9, 1, 90]));
                    assert!(got == wanted, "{what}: {key_value_type:?}, {arithmetic:?}, {}", set.name());
                }
                seen.push(wanted);
            }
        }
        seen.sort();
        seen.dedup();
        // With floating weights the two arithmetics are one.
        let different = if what.ends_with("quantized") { 10 } else { 5 };
        assert_eq!(seen.len(), different, "{what}: the options make a difference");
    }
}

/// What a prompt's tokens give beside the tokens of others in the same steps.
fn among_neighbours(
    model: &Model,
    options: &RunnerOptions,
    prompt: &[u32],
    others: &[Vec<u32>],
) -> Vec<Vec<f32>> {
    let mut runner = Runner::new(model, options).unwrap();
    // Pages are handed out anew, so that the sequence's own are scattered.
    let gap = runner.open(40).unwrap();
    let mut own = runner.open(prompt.len()).unwrap();
    runner.close(gap);
    let mut sequences: Vec<_> = others.iter().map(|other| runner.open(other.len()).unwrap()).collect();
    let mut rows = Vec::new();
    let (mut fed, mut step) = (0, 0);
    while fed < prompt.len() {
        let count = (1 + step % 7).min(prompt.len() - fed);
        let mut chunks = Vec::new();
        let mut before = 0;
        for (number, (sequence, other)) in sequences.iter_mut().zip(others).enumerate() {
            let at = sequence.length();
            let piece = (1 + (step + number) % 5).min(other.len() - at);
            if piece > 0 && number < others.len() / 2 {
                before += piece;
            }
            if piece > 0 {
                let tokens = &other[at..at + piece];
                chunks.push(Chunk { sequence, tokens, logits: LogitsWanted::All });
            }
        }
        // The chunk stands in the middle.
        let place = chunks.iter().scan(0, |rows, chunk| {
            *rows += chunk.tokens.len();
            Some(*rows)
        });
        let place = place.take_while(|rows| *rows <= before).count();
        let tokens = &prompt[fed..fed + count];
        chunks.insert(place, Chunk { sequence: &mut own, tokens, logits: LogitsWanted::All });
        let logits = runner.step(&mut chunks).unwrap();
        rows.extend((before..before + count).map(|row| logits.row(row).to_vec()));
        fed += count;
        step += 1;
    }
    rows
}

#[test]
fn neighbours_change_nothing() {
    for name in ALL {
        let reference = Reference::of(name);
        let prompt = reference.tokens("a.input_ids");
        let others: Vec<Vec<u32>> = (0..9)
            .map(|number| {
                let source = reference.tokens(if number % 2 == 0 { "b.input_ids" } else { "c.input_ids" });
                source[number..].to_vec()
            })
            .collect();
        for (what, model) in models(name) {
            let wanted = bits(&logits(&model, &plain(), &prompt, &[48]));
            for set in KernelSet::available() {
                let options = RunnerOptions { kernels: Some(set), threads: 2, ..plain() };
                let got = bits(&among_neighbours(&model, &options, &prompt, &others));
                assert!(got == wanted, "{what} on {}", set.name());
            }
        }
    }
}

#[test]
fn what_was_in_the_cache_before_changes_nothing() {
    let reference = Reference::of("gemma3");
    let (prompt, other) = (reference.tokens("a.input_ids"), reference.tokens("c.input_ids"));
    let model = Model::open(&folder("gemma3")).unwrap();
    let options = RunnerOptions { cache_positions: 128, ..plain() };
    let wanted = bits(&logits(&model, &options, &prompt, &[48]));
    let mut runner = Runner::new(&model, &options).unwrap();
    feed(&mut runner, &other, &[100]);
    assert!(bits(&feed(&mut runner, &prompt, &[20])) == wanted);
}

/// The next logits after each of `tokens`.
fn follow(runner: &mut Runner<'_>, sequence: &mut Sequence, tokens: &[u32]) -> Vec<u32> {
    let mut all = Vec::new();
    for token in tokens {
        let tokens = std::slice::from_ref(token);
        let mut chunk = [Chunk { sequence, tokens, logits: LogitsWanted::Last }];
        all.extend(runner.step(&mut chunk).unwrap().row(0).iter().map(|value| value.to_bits()));
    }
    all
}

#[test]
fn a_snapshot_brings_back_the_same_bytes() {
    for name in ALL {
        let model = Model::open(&folder(name)).unwrap();
        let tokens = Reference::of(name).tokens("c.input_ids");
        let mut runner = Runner::new(&model, &plain()).unwrap();
        let mut sequence = runner.open(tokens.len()).unwrap();
        follow(&mut runner, &mut sequence, &tokens[..40]);
        let snapshot = sequence.snapshot();
        assert_eq!(snapshot.length(), 40);
        let wanted = follow(&mut runner, &mut sequence, &tokens[40..60]);
        let heads: Vec<u32> = sequence.recurrent_heads(0).iter().map(|value| value.to_bits()).collect();
        // Other tokens come and go, of which up to some are the right ones.
        for right in [0, 3, 8] {
            assert!(sequence.restore(&snapshot));
            follow(&mut runner, &mut sequence, &tokens[40..40 + right]);
            follow(&mut runner, &mut sequence, &tokens[..8 - right]);
            assert!(sequence.restore(&snapshot));
            assert_eq!(sequence.length(), 40);
            let got = follow(&mut runner, &mut sequence, &tokens[40..60]);
            assert!(got == wanted, "{name}, {right} right");
            let state: Vec<u32> = sequence.recurrent_heads(0).iter().map(|value| value.to_bits()).collect();
            assert!(state == heads, "{name}, {right} right: the state");
        }
        sequence.truncate(20);
        assert!(!sequence.restore(&snapshot), "what was cut cannot come back");
    }
}

#[test]
fn a_recurrent_sequence_that_was_cut_does_not_go_on() {
    let model = Model::open(&folder("qwen3_5")).unwrap();
    let mut runner = Runner::new(&model, &plain()).unwrap();
    let mut sequence = runner.open(64).unwrap();
    follow(&mut runner, &mut sequence, &[1, 2, 3, 4]);
    sequence.truncate(2);
    let mut chunk = [Chunk { sequence: &mut sequence, tokens: &[5], logits: LogitsWanted::Last }];
    let error = runner.step(&mut chunk).unwrap_err();
    assert!(error.to_string().contains("snapshot"), "{error}");
}
