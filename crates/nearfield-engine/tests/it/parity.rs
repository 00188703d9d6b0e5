//! The same logits as another implementation: from the published checkpoint and from GGUF, however the prompt is cut.

use std::path::Path;

use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::{MatrixStorage, convert_checkpoint};

use crate::support::{FIXTURES, Reference, exact, folder, greedy, logits};

/// Largest difference of a logit in exact arithmetic.
pub(crate) const TOLERANCE: f32 = 1e-3;

/// The largest difference of any logit of prompts a, b and c, cut into these pieces. NaN counts as infinite.
pub(crate) fn difference(model: &Model, reference: &Reference, pieces: &[usize]) -> f32 {
    let mut largest = 0.0_f32;
    for (prompt, wanted, first) in [
        ("a.input_ids", "a.logits", 0),
        ("b.input_ids", "b.logits", 0),
        ("c.input_ids", "c.logits_from64", 64),
    ] {
        let got = logits(model, &exact(), &reference.tokens(prompt), pieces);
        let wanted = reference.rows(wanted);
        assert_eq!(got.len(), first + wanted.len());
        for (got, wanted) in got[first..].iter().zip(wanted) {
            assert_eq!(got.len(), wanted.len());
            for (got, wanted) in got.iter().zip(wanted) {
                let off = (got - wanted).abs();
                largest = largest.max(if off.is_nan() { f32::INFINITY } else { off });
            }
        }
    }
    largest
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
    for name in FIXTURES {
        check(name, &Model::open(&folder(name)).unwrap(), &Reference::of(name));
    }
}

#[test]
fn gguf_files() {
    for name in FIXTURES {
        for storage in [MatrixStorage::F32, MatrixStorage::Bf16] {
            let bytes = convert_checkpoint(&folder(name), storage).unwrap().build();
            let model = Model::from_gguf_bytes(Path::new("converted.gguf"), bytes).unwrap();
            check(&format!("{name} as {storage:?}"), &model, &Reference::of(name));
        }
    }
}
