//! Texts to be masked: nothing that was found is left, and what was masked comes back. The first byte says whether
//! placeholders or pseudonyms are made, and how the answer is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearfield_privacy::{Detector, HashKey, Masker, Restorer, Survey, Treatments};
use serde_json::Value;

/// Shorter values are masked only where they were found.
const LEAST_KNOWN: usize = 6;

/// Whether a value stands in a text as a word of its own. Beside a placeholder begins and ends what was no word before.
fn stands_in(text: &str, value: &str) -> bool {
    let inside = |letter: char| letter.is_ascii_alphanumeric() || !letter.is_ascii();
    text.match_indices(value).any(|(at, found)| {
        let before = text[..at].ends_with(|letter| inside(letter) || letter == ']');
        let after = text[at + found.len()..].starts_with(|letter| inside(letter) || letter == '[');
        !before && !after
    })
}

fn is_tree(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|tree| tree.is_object() || tree.is_array())
}

fuzz_target!(|input: (u8, &str)| {
    let (hash, size, text) = (input.0 & 1 == 1, usize::from(input.0 >> 1) + 1, input.1);
    let mut treatments = Treatments::none();
    for name in ["public", "internal", "personal", "health", "secret"] {
        assert!(treatments.set(name, hash));
    }
    let (detector, key) = (Detector::new(), HashKey::new([5; 32]));
    let mut survey = Survey::new();
    survey.json_text(&detector, None, text);
    survey.text(&detector, Some("note"), text);
    // No form may be free, or there may be too many values: the request is refused then.
    let Ok(mut masker) = Masker::new(&survey, &treatments, Some(&key)) else { return };
    let (Ok(tree), Ok(plain)) = (masker.json_text(text), masker.text(text)) else { return };
    let vault = masker.finish().unwrap().vault;
    let (tree, plain) = (tree.unwrap_or_else(|| text.to_owned()), plain.unwrap_or_else(|| text.to_owned()));

    let mut spans = Vec::new();
    detector.find_every(text, &mut spans);
    let small = [tree.to_ascii_lowercase(), plain.to_ascii_lowercase()];
    for span in spans {
        let value = text[span.start..span.end].to_ascii_lowercase();
        // A value with escapes is known as it reads, which is shorter.
        let known = value.len() >= LEAST_KNOWN && !value.contains('\\');
        for masked in small.iter().filter(|_| known) {
            assert!(!stands_in(masked, &value), "{value:?} is left in {masked:?}");
        }
    }
    assert!(!is_tree(text) || is_tree(&tree), "{tree:?} is no JSON any more");
    if hash {
        return;
    }
    assert_eq!(vault.restore(&plain, false), text);
    let mut restorer = Restorer::new(vault, false);
    let mut restored = String::new();
    let mut rest = plain.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
        restored.push_str(&restorer.push(piece));
        rest = after;
    }
    restored.push_str(&restorer.finish());
    assert_eq!(restored, text);
});
