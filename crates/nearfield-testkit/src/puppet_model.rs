//! A model whose weights make it say what [`crate::plays`] says, in one GGUF file.
//!
//! Each token is followed by one other, whatever came before: a token's embedding is the row of the head of the token
//! that shall follow, and the only layer adds nothing. The chat template ends with a token that begins the right line:
//! a call where there are tools, another text after their results, a thought where one is wanted.

use crate::gguf_conversion::MatrixStorage;
use crate::gguf_writer::GgufWriter;
use crate::plays::{AFTER_THOUGHT, ARGUMENTS, HELLO, SUNNY, THOUGHT};
use crate::tiny_model::byte_level;

/// The model's context.
pub const CONTEXT: u32 = 16_384;
/// The name of the only tool that it knows.
pub const TOOL: &str = "weather";

const WIDTH: usize = 64;
/// The vocabulary is a multiple of so many, as it is in real models.
const ROWS: usize = 32;
const END: usize = 0;
/// Control tokens; a line begins after each of the last three.
const CONTROL: [&str; 6] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|call|>", "<|result|>", "<think>"];
const FIRST_CUE: usize = 3;

const TEMPLATE: &str = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}\
    {% for m in messages %}<|im_start|>{{ m.role }}\n\
    {% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}\
    {% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\
    <|im_end|>\n{% endfor %}<|im_start|>assistant\n\
    {% if (messages | last).role == 'tool' %}<|result|>{% elif tools %}<|call|>{% elif enable_thinking %}<think>{% endif %}";

/// The bytes of the file. An endless one begins its plain answer again and again.
pub fn puppet_model(endless: bool) -> Vec<u8> {
    let lines = lines();
    let bytes = std::iter::once(b'\n').chain(0x20..0x7f);
    let mut tokens: Vec<String> =
        CONTROL.iter().map(|&text| text.to_owned()).chain(bytes.map(byte_level)).collect();
    let begin = tokens.len();
    // A plain answer follows whatever is none of the lines.
    let mut next = vec![begin; begin];
    for (line, pieces) in lines.iter().enumerate() {
        if line > 0
            && let Some(cue) = next.get_mut(FIRST_CUE + line - 1)
        {
            *cue = tokens.len();
        }
        for piece in pieces {
            tokens.push(piece.bytes().map(byte_level).collect());
            next.push(tokens.len());
        }
        if let Some(last) = next.last_mut() {
            *last = if endless && line == 0 { begin } else { END };
        }
    }
    let spoken = tokens.len();
    while !tokens.len().is_multiple_of(ROWS) {
        tokens.push(format!("<|unused {}|>", tokens.len()));
        next.push(END);
    }
    let kind = |id| if (CONTROL.len()..spoken).contains(&id) { 1_i32 } else { 3 };
    let kinds = (0..tokens.len()).map(kind).collect::<Vec<_>>();
    let writer = weights(&next)
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.pre", "gpt-2")
        .key("tokenizer.ggml.tokens", tokens)
        .key("tokenizer.ggml.token_type", kinds)
        .key("tokenizer.ggml.merges", Vec::<String>::new())
        .key("tokenizer.ggml.bos_token_id", END as u32)
        .key("tokenizer.ggml.eos_token_id", END as u32)
        .key("tokenizer.ggml.add_bos_token", false)
        .key("tokenizer.chat_template", TEMPLATE);
    writer.build()
}

/// What is said, in pieces that are a token each: the plain answer, the calls, the text after their results, and the
/// thought with its text. No two pieces are the same.
fn lines() -> [Vec<String>; 4] {
    let owned = |pieces: &[&str]| pieces.iter().map(|&piece| piece.to_owned()).collect::<Vec<_>>();
    let calls = ARGUMENTS.iter().enumerate().flat_map(|(i, arguments)| {
        [
            format!("<tool_call>{}{{\"name\": \"{TOOL}\", ", "\n".repeat(i)),
            format!("\"arguments\": {arguments}}}</tool_call>"),
        ]
    });
    let (one, two) = THOUGHT.split_at(4);
    let (three, four) = AFTER_THOUGHT.split_at(3);
    [owned(&HELLO), calls.collect(), owned(&SUNNY), owned(&[one, two, "</think>", three, four])]
}

/// The model without its vocabulary: `next` has the token after each token.
fn weights(next: &[usize]) -> GgufWriter {
    let rows = next.len();
    let directions: Vec<Vec<f32>> = (0..rows).map(direction).collect();
    let head: Vec<f32> = directions.concat();
    let embeddings: Vec<f32> = next.iter().filter_map(|&id| directions.get(id)).flatten().copied().collect();
    let (width, rows) = (WIDTH as u64, rows as u64);
    let writer = GgufWriter::new()
        .key("general.architecture", "llama")
        .key("general.name", "puppet")
        .key("llama.block_count", 1_u32)
        .key("llama.context_length", CONTEXT)
        .key("llama.embedding_length", WIDTH as u32)
        .key("llama.feed_forward_length", WIDTH as u32)
        .key("llama.attention.head_count", 4_u32)
        .key("llama.attention.head_count_kv", 2_u32)
        .key("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .key("llama.rope.freq_base", 1e4_f32)
        .key("llama.rope.dimension_count", 16_u32)
        .key("llama.vocab_size", rows as u32);
    let matrix = |writer: GgufWriter, name: &str, rows: u64, values: &[f32]| {
        let (type_id, bytes) = MatrixStorage::F16.encode(values);
        writer.tensor(name, &[width, rows], type_id, bytes)
    };
    let writer = matrix(writer, "token_embd.weight", rows, &embeddings);
    let writer = matrix(writer, "output.weight", rows, &head);
    let silent = [
        ("blk.0.attn_q.weight", width),
        ("blk.0.attn_k.weight", width / 2),
        ("blk.0.attn_v.weight", width / 2),
        ("blk.0.attn_output.weight", width),
        ("blk.0.ffn_gate.weight", width),
        ("blk.0.ffn_up.weight", width),
        ("blk.0.ffn_down.weight", width),
    ];
    let writer = silent
        .iter()
        .fold(writer, |writer, (name, rows)| matrix(writer, name, *rows, &vec![0.0; WIDTH * *rows as usize]));
    ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"]
        .iter()
        .fold(writer, |writer, name| writer.f32_tensor(name, &[width], &[1.0; WIDTH]))
}

/// A direction of a token's own: ones and minus ones, far from every other token's.
fn direction(id: usize) -> Vec<f32> {
    let mut state = id as u64 + 1;
    (0..WIDTH)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 0 { 1.0 } else { -1.0 }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_direction_is_near_another() {
        let directions: Vec<Vec<f32>> = (0..160).map(direction).collect();
        for (i, one) in directions.iter().enumerate() {
            for other in &directions[..i] {
                let product: f32 = one.iter().zip(other).map(|(one, other)| one * other).sum();
                assert!(product < 44.0, "{product}");
            }
        }
    }
}
