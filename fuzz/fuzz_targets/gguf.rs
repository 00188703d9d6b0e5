//! GGUF files: metadata, tensors, the model and its text side.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearfield_model::{ChatMessage, ChatOptions, Model, Text, gguf::Gguf};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.gguf");
    if let Ok(file) = Gguf::from_bytes(bytes.to_vec()) {
        for key in file.metadata().keys() {
            let _ = file.metadata().value(key);
        }
        for tensor in file.tensors() {
            assert_eq!(file.bytes(tensor).len(), tensor.byte_length());
        }
    }
    let _ = Model::from_gguf_bytes(path, bytes.to_vec());
    if let Ok(text) = Text::from_gguf_bytes(path, bytes.to_vec()) {
        let _ = text.encode_chat(&[ChatMessage::new("user", "hello <|im_end|>")], &ChatOptions::default());
        let _ = text.encode_completion("hello", Some("there"));
    }
});
