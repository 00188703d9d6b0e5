//! A whole model small enough to be written in every test: a Llama with a byte-level vocabulary and a chat template.

use super::GgufWriter;

/// Tokens behind the 256 single bytes: those made by a merge, then those with a role, which start at [`ENDOFTEXT`].
const MERGED: [&str; 4] = ["he", "ll", "hell", "Ġt"];
const MERGES: [&str; 4] = ["h e", "l l", "he ll", "Ġ t"];
const SPECIAL: [&str; 6] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"];

/// Id of `<|endoftext|>`; `<|im_start|>`, `<|im_end|>`, and the fill-in-the-middle prefix, middle and suffix follow.
pub const ENDOFTEXT: u32 = 260;

/// The chat template of [`model`].
pub const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
    message['content'] | trim + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The vocabulary's keys alone.
pub fn vocabulary(writer: GgufWriter) -> GgufWriter {
    let mut tokens: Vec<String> = (0..=255_u8).map(|byte| byte_letter(byte).to_string()).collect();
    tokens.extend(MERGED.iter().chain(&SPECIAL).map(|&text| text.to_owned()));
    let kinds: Vec<i32> = (0..tokens.len() as u32).map(|id| if id >= ENDOFTEXT { 3 } else { 1 }).collect();
    writer
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.pre", "qwen2")
        .key("tokenizer.ggml.tokens", tokens)
        .key("tokenizer.ggml.token_type", kinds)
        .key("tokenizer.ggml.merges", MERGES.to_vec())
        .key("tokenizer.ggml.eos_token_id", ENDOFTEXT + 2)
        .key("tokenizer.ggml.bos_token_id", ENDOFTEXT)
        .key("tokenizer.ggml.add_bos_token", false)
}

/// A model of one layer, with [`TEMPLATE`]. Its weights are a fixed noise.
pub fn model() -> GgufWriter {
    let rows = u64::from(ENDOFTEXT) + SPECIAL.len() as u64;
    let writer = GgufWriter::new()
        .key("general.architecture", "llama")
        .key("general.name", "tiny")
        .key("llama.block_count", 1_u32)
        .key("llama.context_length", 256_u32)
        .key("llama.embedding_length", 32_u32)
        .key("llama.feed_forward_length", 64_u32)
        .key("llama.attention.head_count", 2_u32)
        .key("llama.attention.head_count_kv", 1_u32)
        .key("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .key("llama.rope.freq_base", 1e4_f32)
        .key("llama.rope.dimension_count", 16_u32)
        .key("llama.vocab_size", rows as u32);
    let writer = vocabulary(writer).key("tokenizer.chat_template", TEMPLATE);
    let matrices = [
        ("token_embd.weight", [32, rows]),
        ("blk.0.attn_q.weight", [32, 32]),
        ("blk.0.attn_k.weight", [32, 16]),
        ("blk.0.attn_v.weight", [32, 16]),
        ("blk.0.attn_output.weight", [32, 32]),
        ("blk.0.ffn_gate.weight", [32, 64]),
        ("blk.0.ffn_up.weight", [32, 64]),
        ("blk.0.ffn_down.weight", [64, 32]),
    ];
    let writer = matrices.iter().enumerate().fold(writer, |writer, (number, (name, dimensions))| {
        writer.f32_tensor(name, dimensions, &noise(number as u32 + 1, dimensions.iter().product()))
    });
    ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"]
        .iter()
        .fold(writer, |writer, name| writer.f32_tensor(name, &[32], &[1.0; 32]))
}

/// Numbers between -0.5 and 0.5, the same for a seed on every machine.
fn noise(seed: u32, count: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// The character by which byte-level vocabularies write a byte.
fn byte_letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or_default()
}
