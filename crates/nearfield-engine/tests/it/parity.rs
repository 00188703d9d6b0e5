//! The same logits as another implementation: from the published checkpoint and from GGUF, however the prompt is cut.

use std::path::Path;

use nearfield_engine::{Chunk, DraftRow, LogitsWanted, Runner};
use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::{MatrixStorage, convert_checkpoint};

use crate::support::{ALL, Reference, exact, folder, greedy, logits};

/// Largest difference of a logit in exact arithmetic.
pub(crate) const TOLERANCE: f32 = 1e-3;

/// The largest difference of any logit of prompts a, b and c, cut into these pieces. NaN counts as infinite.
pub(crate) fn difference(model: &Model, reference: &Reference, pieces: &[usize]) -> f32 {
    let mut off = 0.0_f32;
    for (prompt, wanted, first) in [
        ("a.input_ids", "a.logits", 0),
        ("b.input_ids", "b.logits", 0),
        ("c.input_ids", "c.logits_from64", 64),
    ] {
        let got = logits(model, &exact(), &reference.tokens(prompt), pieces);
        let wanted = reference.rows(wanted);
        assert_eq!(got.len(), first + wanted.len());
        for (got, wanted) in got[first..].iter().zip(wanted) {
            off = off.max(largest(got, wanted));
        }
    }
    off
}

fn check(what: &str, model: &Model, reference: &Reference) {
    let ways: [(&str, &[usize]); 4] =
        [("whole", &[100]), ("in pieces", &[37, 1, 30, 32]), ("in fives", &[5]), ("token by token", &[1])];
    for (way, pieces) in ways {
        let off = difference(model, reference, pieces);
        assert!(off <= TOLERANCE, "{what}, {way}: a logit is off by {off}");
    }
    for prompt in ["a", "b"] {
        let tokens = reference.tokens(&format!("{prompt}.input_ids"));
        let wanted = reference.tokens(&format!("{prompt}.greedy"));
        assert_eq!(greedy(model, &exact(), &tokens, wanted.len()), wanted, "{what}, prompt {prompt}");
    }
}

#[test]
fn published_checkpoints() {
    for name in ALL {
        check(name, &Model::open(&folder(name)).unwrap(), &Reference::of(name));
    }
}

#[test]
fn gguf_files() {
    for name in ALL {
        for storage in [MatrixStorage::F32, MatrixStorage::Bf16] {
            let bytes = convert_checkpoint(&folder(name), storage).unwrap().build();
            let model = Model::from_gguf_bytes(Path::new("converted.gguf"), bytes).unwrap();
            check(&format!("{name} as {storage:?}"), &model, &Reference::of(name));
        }
    }
}

#[test]
fn recurrent_states_and_draft_heads() {
    for name in ["qwen3_5", "qwen3_5_moe"] {
        let (model, reference) = (Model::open(&folder(name)).unwrap(), Reference::of(name));
        let all = reference.tokens("a.input_ids");
        let tokens = &all[..];
        for pieces in [&[48][..], &[1; 48], &[17, 1, 30]] {
            let mut runner = Runner::new(&model, &exact()).unwrap();
            runner.follow_with_draft(true);
            let mut sequence = runner.open(tokens.len() + 1).unwrap();
            let wanted = reference.rows("a.mtp_logits");
            let mut fed = 0;
            for count in pieces {
                let tokens = &tokens[fed..fed + count];
                let mut chunk = [Chunk { sequence: &mut sequence, tokens, logits: LogitsWanted::Last }];
                runner.step(&mut chunk).unwrap();
                fed += count;
                // What the head expects after each piece and the token that follows it.
                let Some(wanted) = wanted.get(fed - 1) else { continue };
                let token = all[fed];
                let row = DraftRow { sequence: &mut sequence, token, ahead: 0, previous: None };
                let off = largest(runner.draft(&mut [row]).unwrap().row(0), wanted);
                assert!(off <= TOLERANCE, "{name}: row {} of the draft head is off by {off}", fed - 1);
            }
            let off = largest(sequence.recurrent_heads(0), reference.values("a.layer0.recurrent_state"));
            assert!(off <= TOLERANCE, "{name}, {pieces:?}: a state is off by {off}");
        }
    }
}

/// The largest difference. NaN counts as infinite.
pub(crate) fn largest(got: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(got.len(), wanted.len());
    let off = got.iter().zip(wanted).map(|(got, wanted)| (got - wanted).abs());
    off.fold(0.0, |largest, off| largest.max(if off.is_nan() { f32::INFINITY } else { off }))
}
