//! Recognises the parts of `tokenizer.json` around its model.

use serde_json::Value;

use super::read::File;
use crate::tokenizer::error::TokenizerError;
use crate::tokenizer::pretokenizer::PreTokenizer;

/// What the parts of a file amount to.
#[derive(Debug, Default)]
pub(super) struct Setup {
    /// Tokens are written in the byte alphabet.
    pub(super) byte_level: bool,
    pub(super) pre_tokenizer: Option<PreTokenizer>,
    pub(super) compose: bool,
    pub(super) space_mark: bool,
    pub(super) space_prefix: bool,
    /// Text of the token that goes in front of plain text.
    pub(super) bos: Option<String>,
    /// Text of the token that goes behind plain text.
    pub(super) eos: Option<String>,
}

/// An error that names a part and shows it, shortened.
pub(super) fn unsupported(part: &str, found: &Value) -> TokenizerError {
    let mut found = found.to_string();
    if let Some((place, _)) = found.char_indices().nth(200) {
        found.truncate(place);
        found.push('…');
    }
    TokenizerError::UnsupportedPart { part: part.to_owned(), found }
}

fn unsupported_text(part: &str, found: &str) -> TokenizerError {
    TokenizerError::UnsupportedPart { part: part.to_owned(), found: found.to_owned() }
}

/// Reads all parts.
pub(super) fn recognise(file: &File) -> Result<Setup, TokenizerError> {
    check_model(file)?;
    let mut setup = Setup::default();
    for step in steps(&file.normalizer, "normalizers") {
        normalizer(step, &mut setup)?;
    }
    pre_tokenizer(&file.pre_tokenizer, &mut setup)?;
    if setup.byte_level == setup.space_mark || setup.byte_level == file.model.byte_fallback {
        let found = "neither a byte-level vocabulary nor one with U+2581 for spaces and byte fallback";
        return Err(unsupported_text("the combination of normalizer, pre_tokenizer and model", found));
    }
    for step in steps(&file.post_processor, "processors") {
        post_processor(step, &mut setup)?;
    }
    for step in steps(&file.decoder, "decoders") {
        decoder(step, &setup)?;
    }
    Ok(setup)
}

fn check_model(file: &File) -> Result<(), TokenizerError> {
    let model = &file.model;
    if model.kind.as_deref().unwrap_or("BPE") != "BPE" {
        return Err(unsupported_text("model.type", model.kind.as_deref().unwrap_or_default()));
    }
    if !model.dropout.is_null() && model.dropout.as_f64() != Some(0.0) {
        return Err(unsupported("model.dropout", &model.dropout));
    }
    for (name, value) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if !value.is_null() && value.as_str() != Some("") {
            return Err(unsupported(name, value));
        }
    }
    match file.added_tokens.iter().find(|token| token.lstrip || token.rstrip || token.single_word) {
        Some(token) => {
            Err(unsupported_text("an added token with lstrip, rstrip or single_word", &token.content))
        }
        None => Ok(()),
    }
}

/// The steps of a part: those of a `Sequence`, the part itself, or none.
fn steps<'v>(part: &'v Value, field: &str) -> Vec<&'v Value> {
    if part.is_null() {
        return Vec::new();
    }
    match part.get(field).and_then(Value::as_array) {
        Some(list) if kind(part) == "Sequence" => list.iter().flat_map(|step| steps(step, field)).collect(),
        _ => vec![part],
    }
}

fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A string inside nested objects.
fn text<'v>(part: &'v Value, path: &[&str]) -> Option<&'v str> {
    path.iter().try_fold(part, |value, key| value.get(key))?.as_str()
}

fn flag(part: &Value, name: &str, default: bool) -> bool {
    part.get(name).and_then(Value::as_bool).unwrap_or(default)
}

fn normalizer(step: &Value, setup: &mut Setup) -> Result<(), TokenizerError> {
    match kind(step) {
        "NFC" => setup.compose = true,
        "Replace"
            if text(step, &["pattern", "String"]) == Some(" ") && text(step, &["content"]) == Some("▁") =>
        {
            setup.space_mark = true;
        }
        "Prepend" if text(step, &["prepend"]) == Some("▁") => setup.space_prefix = true,
        _ => return Err(unsupported("normalizer", step)),
    }
    Ok(())
}

fn pre_tokenizer(part: &Value, setup: &mut Setup) -> Result<(), TokenizerError> {
    let steps = steps(part, "pretokenizers");
    let is_byte_level = |step: &Value, use_regex: bool| {
        kind(step) == "ByteLevel"
            && flag(step, "use_regex", true) == use_regex
            && !flag(step, "add_prefix_space", true)
    };
    let isolated = |step: &Value| {
        kind(step) == "Split" && text(step, &["behavior"]) == Some("Isolated") && !flag(step, "invert", false)
    };
    match steps.as_slice() {
        [] => {}
        // Without spaces in the text, which the normalizer has replaced, this cuts nothing.
        [step]
            if kind(step) == "Split"
                && text(step, &["pattern", "String"]) == Some(" ")
                && text(step, &["behavior"]) == Some("MergedWithPrevious")
                && setup.space_mark => {}
        [step] if is_byte_level(step, true) => {
            setup.byte_level = true;
            setup.pre_tokenizer = Some(PreTokenizer::Gpt2);
        }
        [digits, step]
            if kind(digits) == "Digits"
                && flag(digits, "individual_digits", false)
                && is_byte_level(step, true) =>
        {
            setup.byte_level = true;
            setup.pre_tokenizer = Some(PreTokenizer::DigitsThenGpt2);
        }
        [split, step] if isolated(split) && is_byte_level(step, false) => {
            let pattern = text(split, &["pattern", "Regex"]).unwrap_or_default();
            let known = PreTokenizer::from_pattern(pattern);
            setup.pre_tokenizer =
                Some(known.ok_or_else(|| unsupported("the pre_tokenizer's Split pattern", split))?);
            setup.byte_level = true;
        }
        _ => return Err(unsupported("pre_tokenizer", part)),
    }
    Ok(())
}

/// The only post-processing that concerns a single text: a token in front of it, a token behind it.
fn post_processor(step: &Value, setup: &mut Setup) -> Result<(), TokenizerError> {
    match kind(step) {
        "ByteLevel" => return Ok(()),
        "TemplateProcessing" => {}
        _ => return Err(unsupported("post_processor", step)),
    }
    let wrong = || unsupported("post_processor", step);
    let mut seen_text = false;
    for part in step.get("single").and_then(Value::as_array).ok_or_else(wrong)? {
        let token = text(part, &["SpecialToken", "id"]).map(str::to_owned);
        let place = if seen_text { &mut setup.eos } else { &mut setup.bos };
        match token {
            None if part.get("Sequence").is_some() && !seen_text => seen_text = true,
            Some(token) if place.is_none() => *place = Some(token),
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

fn decoder(step: &Value, setup: &Setup) -> Result<(), TokenizerError> {
    let known = match kind(step) {
        "ByteLevel" => setup.byte_level,
        "ByteFallback" | "Fuse" => !setup.byte_level,
        "Replace" => text(step, &["pattern", "String"]) == Some("▁") && text(step, &["content"]) == Some(" "),
        "Strip" => {
            setup.space_prefix
                && text(step, &["content"]) == Some(" ")
                && step.get("start").and_then(Value::as_u64) == Some(1)
                && step.get("stop").and_then(Value::as_u64).unwrap_or(0) == 0
        }
        _ => false,
    };
    if known { Ok(()) } else { Err(unsupported("decoder", step)) }
}
