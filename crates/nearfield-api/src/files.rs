//! Whether what no dialect has a name for is a file: a picture, a recording or a document, or a word where one is.

use serde_json::Value;

use crate::Place;

/// Words of keys and types that speak of files.
const WORDS: [&str; 21] = [
    "attachment",
    "attachments",
    "audio",
    "audios",
    "blob",
    "bytes",
    "document",
    "documents",
    "file",
    "files",
    "image",
    "images",
    "media",
    "pdf",
    "photo",
    "picture",
    "pictures",
    "uri",
    "url",
    "video",
    "videos",
];
/// Base64 from this length on is no word and no id.
const LONG: usize = 200;

/// Whether an unknown part holds a file or names one: by its `type`, by a key at any depth, or by a string that is a
/// `data:` address or long base64.
pub(crate) fn holds_a_file(value: &Value) -> bool {
    match value {
        Value::String(text) => is_encoded(text),
        Value::Array(items) => items.iter().any(holds_a_file),
        Value::Object(map) => map.iter().any(|(key, value)| {
            let kind = value.as_str().filter(|_| key == "type");
            speaks_of_files(key) || kind.is_some_and(speaks_of_files) || holds_a_file(value)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Where the value of a message's own unknown field stands: the recording of an earlier answer and the pictures of some
/// servers do not stand among the message's parts.
pub(crate) fn attached(key: &str) -> Place {
    if speaks_of_files(key) { Place::File } else { Place::Extra }
}

/// Whether a text is an address that is itself a file: `data:image/png;base64,…`.
pub fn is_data_url(text: &str) -> bool {
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

/// Whether a text is no text but bytes: a `data:` address, or long and nothing but base64.
pub fn is_encoded(text: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=\r\n".contains(&byte);
    is_data_url(text) || text.len() >= LONG && text.bytes().all(base64)
}

/// Whether one of a name's words speaks of files: `image_url`, `fileId`, `input-audio`.
fn speaks_of_files(name: &str) -> bool {
    let mut word = String::with_capacity(name.len());
    let mut before = false;
    for letter in name.chars() {
        let begins = letter.is_ascii_uppercase() && before;
        if begins || !letter.is_ascii_alphabetic() {
            if is_word(&word) {
                return true;
            }
            word.clear();
        }
        if letter.is_ascii_alphabetic() {
            word.push(letter.to_ascii_lowercase());
        }
        before = letter.is_ascii_lowercase();
    }
    is_word(&word)
}

fn is_word(word: &str) -> bool {
    WORDS.binary_search(&word).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_in_order() {
        assert!(WORDS.is_sorted());
    }

    #[test]
    fn files_are_told_from_text() {
        let base64 = "QUJD".repeat(LONG / 4);
        for value in [
            json!({"type": "input_image", "ref": "x"}),
            json!({"type": "video_url", "video_url": {"url": "https://host.example/a.mp4"}}),
            json!({"type": "container_upload", "file_id": "file-1"}),
            json!({"fileData": {"fileUri": "gs://b/a"}}),
            json!({"type": "new", "of": [{"imageURL": "x"}]}),
            json!({"type": "new", "payload": base64}),
            json!({"type": "new", "payload": "DATA:text/plain,abc"}),
        ] {
            assert!(holds_a_file(&value), "{value}");
        }
        for value in [
            json!({"type": "new_kind", "new_kind": {"a": 1}}),
            json!({"type": "custom", "custom": {"name": "profile", "input": "say hello"}}),
            json!({"type": "note", "text": format!("two words {base64}")}),
            json!({"type": "search_result", "source": "https://host.example", "content": [{"type": "text", "text": "x"}]}),
            json!({"type": "new", "id": "QUJD".repeat(LONG / 4 - 1)}),
        ] {
            assert!(!holds_a_file(&value), "{value}");
        }
    }
}
