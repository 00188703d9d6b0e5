//! Compressed checkpoints in every published layout: the weights that another implementation dequantizes, and its
//! logits.

use std::path::{Path, PathBuf};

use nearfield_engine::{Arithmetic, Runner, RunnerOptions};
use nearfield_model::Model;

use crate::parity::{TOLERANCE, largest};
use crate::support::{Reference, bits, exact, feed, greedy, logits, plain};

/// Every fixture: the family's folder and the layout's.
pub(crate) const COMPRESSED: [(&str, &str); 17] = [
    ("qwen3", "nvfp4_ct"),
    ("qwen3", "nvfp4_modelopt"),
    ("qwen3", "fp8_tensor_ct"),
    ("qwen3", "fp8_tensor_mo"),
    ("qwen3", "fp8_channel"),
    ("qwen3", "fp8_block"),
    ("qwen3", "mxfp4_ct"),
    ("gemma4", "nvfp4_ct"),
    ("gemma4", "nvfp4_modelopt"),
    ("gemma4", "fp8_tensor_mo"),
    ("gemma4", "fp8_channel"),
    ("gemma4", "fp8_block"),
    ("gemma4", "mxfp4_ct"),
    ("gemma4_moe", "nvfp4_modelopt"),
    ("qwen3_5_moe", "fp8_block"),
    ("qwen3_5_moe", "nvfp4_ct"),
    ("qwen3_5_moe", "mixed_modelopt"),
];

pub(crate) fn folder(family: &str, layout: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures_quantized").join(family).join(layout)
}

#[test]
fn logits_and_greedy_answers_are_those_of_the_reference() {
    for (family, layout) in COMPRESSED {
        let folder = folder(family, layout);
        let (model, reference) = (Model::open(&folder).unwrap(), Reference::in_folder(&folder));
        let tokens = reference.tokens("a.input_ids");
        for pieces in [&[100][..], &[17, 1, 30], &[1]] {
            let got = logits(&model, &exact(), &tokens, pieces);
            let wanted = reference.rows("a.logits");
            assert_eq!(got.len(), wanted.len());
            for (row, (got, wanted)) in got.iter().zip(wanted).enumerate() {
                let off = largest(got, wanted);
                assert!(off <= TOLERANCE, "{family} {layout}, {pieces:?}: row {row} is off by {off}");
            }
        }
        let wanted = reference.tokens("a.greedy");
        assert_eq!(greedy(&model, &exact(), &tokens, wanted.len()), wanted, "{family} {layout}");
    }
}

#[test]
fn sets_threads_and_pieces_keep_the_bytes() {
    for (family, layout) in COMPRESSED {
        let folder = folder(family, layout);
        let (model, reference) = (Model::open(&folder).unwrap(), Reference::in_folder(&folder));
        let tokens = reference.tokens("a.input_ids");
        for arithmetic in [Arithmetic::Default, Arithmetic::Exact] {
            let options = RunnerOptions { arithmetic, ..plain() };
            let wanted = bits(&logits(&model, &options, &tokens, &[100]));
            for set in nearfield_engine::KernelSet::available() {
                for (threads, pieces) in [(2, &[100][..]), (1, &[1]), (2, &[7, 20, 1])] {
                    let options = RunnerOptions { kernels: Some(set), threads, ..options };
                    let mut runner = Runner::new(&model, &options).unwrap();
                    // Codes and scales of FP4 lie apart in the file, and together in panels.
                    let copied = if threads == 1 { 0 } else { runner.load_weights().unwrap() };
                    assert_eq!(copied > 0, threads > 1);
                    let got = bits(&feed(&mut runner, &tokens, pieces));
                    let what = set.name();
                    assert!(
                        got == wanted,
                        "{family} {layout}: {what}, {arithmetic:?}, {threads}, {pieces:?}"
                    );
                }
            }
        }
    }
}
