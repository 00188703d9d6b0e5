//! A vocabulary for a model that was never trained: single bytes, a few control tokens, and words that nobody needs.

use serde_json::{Map, Value, json};

/// How a conversation is written.
pub(super) const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content \
    }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Control tokens behind the bytes and the one merged token.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// The only merge, since a list of none is not read everywhere.
pub(super) const MERGE: &str = "h e";
const BYTES: usize = 256;
/// Id of the first control token.
const FIRST_CONTROL: usize = BYTES + 1;
/// The token that ends answers.
pub(super) const END: u32 = FIRST_CONTROL as u32 + 2;
/// The token between texts.
pub(super) const BEGIN: u32 = FIRST_CONTROL as u32;

/// The texts of all tokens, in the writing of byte-level vocabularies.
pub(super) fn texts(size: usize) -> Vec<String> {
    let bytes = (0..=255_u8).map(|byte| byte_letter(byte).to_string());
    let control = CONTROL.iter().map(|&text| text.to_owned());
    let words = (0..).map(word);
    bytes.chain(["he".to_owned()]).chain(control).chain(words).take(size).collect()
}

/// Whether a token steers instead of being text.
pub(super) fn is_control(id: usize) -> bool {
    (FIRST_CONTROL..FIRST_CONTROL + CONTROL.len()).contains(&id)
}

/// `tokenizer.json`.
pub(super) fn json(size: usize) -> Value {
    let texts = texts(size);
    let added: Vec<Value> = texts
        .iter()
        .enumerate()
        .filter(|(id, _)| is_control(*id))
        .map(|(id, text)| {
            json!({
                "id": id, "content": text, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        })
        .collect();
    let vocab: Map<String, Value> =
        texts.into_iter().enumerate().map(|(id, text)| (text, Value::from(id))).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [MERGE] },
    })
}

/// `tokenizer_config.json`.
pub(super) fn config() -> Value {
    json!({ "eos_token": CONTROL[2], "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast" })
}

/// A space and at least four letters, different for each number.
fn word(mut number: usize) -> String {
    const CONSONANTS: [char; 16] =
        ['b', 'd', 'f', 'g', 'k', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'w', 'z', 'j'];
    const VOWELS: [char; 4] = ['a', 'e', 'i', 'o'];
    let mut word = "Ġ".to_owned();
    for syllable in 0.. {
        if syllable > 1 && number == 0 {
            break;
        }
        word.push(CONSONANTS[number % 16]);
        word.push(VOWELS[number / 16 % 4]);
        number /= 64;
    }
    word
}

/// The character by which byte-level vocabularies write a byte.
fn byte_letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_texts_differ() {
        let texts = texts(262_144);
        assert_eq!(texts.len(), 262_144);
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
        assert_eq!(texts[END as usize], "<|im_end|>");
    }
}
