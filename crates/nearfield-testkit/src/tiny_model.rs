//! A tiny model with a byte-level tokenizer, in one GGUF file: random weights, so its answers mean nothing.

use std::error::Error;
use std::path::Path;

use crate::gguf_conversion::{MatrixStorage, convert_checkpoint};

/// Rows of the model's vocabulary.
const ROWS: usize = 192;
/// The model's context.
pub const CONTEXT: usize = 512;

const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// A chat template of two control tokens.
pub const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The bytes of the file, with a chat template or, as a base model, without. The weights are those of the checkpoint
/// in `folder`: the small `llama` of the engine's fixtures.
pub fn tiny_model(folder: &Path, chat: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let room = ROWS - CONTROL.len();
    // Line feed, printable ASCII, and as many bytes of longer characters as there is room for: those of U+FFFD among
    // them, which stands in the answers.
    let longer = (0x80..0xc0).chain([0xef]).chain(0xc2..0xef);
    let bytes = std::iter::once(b'\n').chain(0x20..0x7f).chain(longer).take(room);
    let texts = CONTROL.iter().map(|&text| text.to_owned()).chain(bytes.map(byte_level));
    let kinds = (0..ROWS).map(|id| if id < CONTROL.len() { 3_i32 } else { 1 });
    let writer = convert_checkpoint(folder, MatrixStorage::F16)?
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.pre", "gpt-2")
        .key("tokenizer.ggml.tokens", texts.collect::<Vec<_>>())
        .key("tokenizer.ggml.token_type", kinds.collect::<Vec<_>>())
        .key("tokenizer.ggml.merges", Vec::<String>::new())
        .key("tokenizer.ggml.bos_token_id", 0_u32)
        .key("tokenizer.ggml.eos_token_id", 0_u32)
        .key("tokenizer.ggml.add_bos_token", false);
    let writer = if chat { writer.key("tokenizer.chat_template", TEMPLATE) } else { writer };
    Ok(writer.build())
}

/// A byte in the writing of byte-level vocabularies.
pub fn byte_level(byte: u8) -> String {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte).to_string();
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(256 + before).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
}
