//! A tiny model with a byte-level tokenizer, in one GGUF file: random weights, so its answers mean nothing.

use std::path::{Path, PathBuf};

use nearfield_testkit::gguf_conversion::{MatrixStorage, convert_checkpoint};
use nearfield_testkit::tiny_model::{TEMPLATE, byte_level};

/// Rows of the model's vocabulary; the tokenizer knows four fewer.
const ROWS: usize = 192;
const UNKNOWN_ROWS: usize = 4;
/// The model's context.
pub(crate) const CONTEXT: u64 = 512;

const CONTROL: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|one|>",
    "<|two|>",
];

/// What the model has beside weights.
#[derive(Clone, Copy)]
pub(crate) struct Tiny {
    pub(crate) template: Option<&'static str>,
    pub(crate) fill_in_the_middle: bool,
}

pub(crate) const INSTRUCT: Tiny = Tiny { template: Some(TEMPLATE), fill_in_the_middle: true };
pub(crate) const BASE: Tiny = Tiny { template: None, fill_in_the_middle: false };

/// Knows tools and thinks.
pub(crate) const TOOLS: Tiny = Tiny {
    template: Some(
        "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}\
         {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
         {% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function.arguments.a + 1 }}</tool_call>{% endfor %}\
         <|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n\
         {% if enable_thinking is false %}\n</think>\n{% endif %}",
    ),
    fill_in_the_middle: false,
};

/// The bytes that have a token, in the order of their tokens: line feed, printable ASCII, and as many bytes of longer
/// characters as there is room for.
fn bytes() -> Vec<u8> {
    let room = ROWS - UNKNOWN_ROWS - CONTROL.len();
    std::iter::once(b'\n').chain(0x20..0x7f).chain(0x80..0xc0).chain(0xc2..=0xff).take(room).collect()
}

/// Writes the model into a folder.
pub(crate) fn write(folder: &Path, name: &str, tiny: Tiny) -> PathBuf {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nearfield-engine/tests/fixtures/llama");
    let mut tokens: Vec<String> = CONTROL.iter().map(|&text| text.to_owned()).collect();
    let mut kinds = vec![3_i32; CONTROL.len()];
    if !tiny.fill_in_the_middle {
        for (token, at) in tokens[3..6].iter_mut().zip(0..) {
            *token = format!("<|plain{at}|>");
        }
    }
    for byte in bytes() {
        tokens.push(byte_level(byte));
        kinds.push(1);
    }
    let mut writer = convert_checkpoint(&fixture, MatrixStorage::F16)
        .unwrap()
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.pre", "gpt-2")
        .key("tokenizer.ggml.tokens", tokens)
        .key("tokenizer.ggml.token_type", kinds)
        .key("tokenizer.ggml.merges", Vec::<String>::new())
        .key("tokenizer.ggml.bos_token_id", 0_u32)
        .key("tokenizer.ggml.eos_token_id", 0_u32)
        .key("tokenizer.ggml.add_bos_token", false);
    if let Some(template) = tiny.template {
        writer = writer.key("tokenizer.chat_template", template);
    }
    let path = folder.join(format!("{name}.gguf"));
    std::fs::write(&path, writer.build()).unwrap();
    path
}
