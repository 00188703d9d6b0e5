//! Token ids of real models against llama.cpp's, from `bench/tokenizer_goldens.py`.
//!
//! The models are large, so they are looked for in the folder named by `NEARFIELD_TEST_MODELS`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nearfield_model::gguf::Gguf;
use nearfield_model::tokenizer::{Encoding, GenerationConfig, Special, SpecialTexts, StopTokens, Tokenizer};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use nearfield_testkit::real_models::{model_file, vocabulary_file};

#[derive(Deserialize)]
struct Golden {
    text_tokens: usize,
    text_sha256: String,
    parsed: Vec<Vec<u32>>,
    as_text: Vec<Vec<u32>>,
}

fn golden_file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer").join(name);
    std::fs::read(path).unwrap()
}

fn load(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf_metadata(Gguf::open(path).unwrap().metadata()).unwrap()
}

/// The long text that the goldens were made from, in the folder that `NEARFIELD_TEST_DATA` names.
fn long_text() -> Option<String> {
    let named = std::env::var_os("NEARFIELD_TEST_DATA").map(PathBuf::from);
    let is_named = named.is_some();
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"));
    let path = folder.join("text/wiki.test.raw");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if is_named => panic!("{}: {error}", path.display()),
        Err(_) => {
            eprintln!("skipped: {} is not there", path.display());
            None
        }
    }
}

fn sha256_of(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Sha256::digest(&bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What decoding can give back: a vocabulary with marked spaces writes U+2581 as a space, and lost bytes stay lost.
fn expected_text(name: &str, text: &str, encoding: &Encoding) -> Option<String> {
    let text = if name.starts_with("gemma") { text.replace('\u{2581}', " ") } else { text.to_owned() };
    (encoding.lost == 0).then_some(text)
}

fn check(name: &str) {
    let golden: Golden = serde_json::from_slice(&golden_file(&format!("{name}.json"))).unwrap();
    let strings: Vec<String> = serde_json::from_slice(&golden_file("strings.json")).unwrap();
    assert_eq!((golden.parsed.len(), golden.as_text.len()), (strings.len(), strings.len()));
    let Some(path) = model_file(name) else { return };
    let tokenizer = load(&path);
    for (special, expected) in [(Special::Parse, &golden.parsed), (Special::AsText, &golden.as_text)] {
        for (text, ids) in strings.iter().zip(expected) {
            let encoding = tokenizer.encode(text, special);
            assert_eq!(&encoding.ids, ids, "{special:?} {text:?}");
            if let Some(text) = expected_text(name, text, &encoding) {
                assert_eq!(tokenizer.decode(ids, Special::Parse).unwrap(), text);
            }
        }
    }
    if let Some(text) = long_text() {
        let ids = tokenizer.encode(&text, Special::AsText).exact().unwrap();
        assert_eq!((ids.len(), sha256_of(&ids)), (golden.text_tokens, golden.text_sha256));
        assert!(tokenizer.decode(&ids, Special::AsText).unwrap() == text, "decoding changes the long text");
    }
}

#[test]
fn smollm2_equals_llama_cpp() {
    check("smollm2-135m");
}

#[test]
fn gemma3_equals_llama_cpp() {
    check("gemma3-270m");
}

#[test]
fn qwen2_5_coder_0_5b_equals_llama_cpp() {
    check("qwen2.5-coder-0.5b");
}

#[test]
fn qwen2_5_coder_1_5b_equals_llama_cpp() {
    check("qwen2.5-coder-1.5b");
}

#[test]
fn roles_of_real_vocabularies() {
    let no_config = GenerationConfig::default();
    if let Some(path) = model_file("smollm2-135m") {
        let tokenizer = load(&path);
        assert_eq!((tokenizer.bos(), tokenizer.bos_to_add(), tokenizer.eos()), (Some(1), None, Some(2)));
        assert_eq!(StopTokens::collect(&tokenizer, &no_config, None).ids(), [0, 2, 4]);
        assert_eq!(tokenizer.fill_in_the_middle(), None);
        // The vocabulary has no token for this control character: a typed error, not a silent loss.
        assert!(tokenizer.encode("a\u{4}b", Special::AsText).exact().is_err());
    }
    if let Some(path) = model_file("gemma3-270m") {
        let tokenizer = load(&path);
        assert_eq!(tokenizer.encode_framed("Hello", Special::AsText).exact().unwrap(), [2, 9259]);
        // Of plain tags only those that end a turn count, and `</s>` is a plain tag here.
        assert_eq!(StopTokens::collect(&tokenizer, &no_config, None).ids(), [1, 106]);
    }
    if let Some(path) = model_file("qwen2.5-coder-0.5b") {
        let tokenizer = load(&path);
        let tokens = tokenizer.fill_in_the_middle().unwrap();
        assert_eq!((tokens.prefix, tokens.suffix, tokens.middle), (151_659, 151_661, 151_660));
        let stops = StopTokens::collect(&tokenizer, &no_config, None);
        assert!(stops.contains(151_645) && stops.contains(151_643) && !stops.contains(151_644));
    }
}

#[derive(Deserialize)]
struct Samples {
    cases: Vec<(String, Vec<u32>)>,
}

/// A vocabulary of `bench/make_vocabularies.py`, after its samples were checked.
fn sampled(name: &str) -> Option<Tokenizer> {
    let samples: std::collections::BTreeMap<String, Samples> =
        serde_json::from_slice(&golden_file("samples.json")).unwrap();
    let file = std::fs::read(vocabulary_file(name)?).unwrap();
    let tokenizer = Tokenizer::from_json(&file, &SpecialTexts::default()).unwrap();
    for (text, ids) in &samples.get(name).unwrap().cases {
        assert_eq!(&tokenizer.encode(text, Special::Parse).ids, ids, "{text:?}");
    }
    Some(tokenizer)
}

#[test]
fn qwen3_6_equals_its_package() {
    let Some(tokenizer) = sampled("qwen3.6") else { return };
    let id = |text: &str| tokenizer.token_id(text);
    assert_eq!((id("<|endoftext|>"), id("<|im_end|>")), (Some(248_044), Some(248_046)));
    assert_eq!(
        (id("<tool_call>"), id("<think>"), id("</think>")),
        (Some(248_058), Some(248_068), Some(248_069))
    );
    let stops = StopTokens::collect(&tokenizer, &GenerationConfig::default(), None);
    assert!(stops.contains(248_044) && stops.contains(248_046) && !stops.contains(248_045));
}

#[test]
fn gemma3_equals_its_package() {
    let Some(tokenizer) = sampled("gemma3") else { return };
    let stops = StopTokens::collect(&tokenizer, &GenerationConfig::default(), None);
    assert!(stops.contains(1) && stops.contains(106));
}
