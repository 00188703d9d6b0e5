//! `tokenizer.json`, and the two files of settings beside it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearfield_model::tokenizer::{GenerationConfig, Special, SpecialTexts, Tokenizer, TokenizerConfig};

fuzz_target!(|bytes: &[u8]| {
    let _ = TokenizerConfig::parse(bytes);
    let _ = GenerationConfig::parse(bytes);
    let Ok(tokenizer) = Tokenizer::from_json(bytes, &SpecialTexts::default()) else { return };
    for special in [Special::Parse, Special::AsText] {
        let encoding = tokenizer.encode("Hello, 123  wörld!\n<s> 🙂", special);
        let _ = tokenizer.decode(&encoding.ids, Special::Parse);
    }
});
