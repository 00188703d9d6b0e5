//! Converts a small published checkpoint to a GGUF file that other programs load too: `to_gguf FOLDER FILE [f32|bf16]`.
//! Its vocabulary is made up: token 7 is `<7>`.

use std::{error::Error, path::Path};

use nearfield_testkit::gguf_conversion::{MatrixStorage, convert_checkpoint, read_safetensors};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, rest @ ..] = arguments.as_slice() else {
        return Err("use: to_gguf FOLDER FILE [f32|bf16]".into());
    };
    let storage = match rest {
        [kind] if kind == "bf16" => MatrixStorage::Bf16,
        _ => MatrixStorage::F32,
    };
    let folder = Path::new(folder);
    let embedding = read_safetensors(&folder.join("model.safetensors"))?
        .into_iter()
        .find(|tensor| tensor.name.ends_with("embed_tokens.weight"))
        .ok_or("there is no token embedding")?;
    let tokens: Vec<String> = (0..embedding.shape[0]).map(|id| format!("<{id}>")).collect();
    let types = vec![1_i32; tokens.len()];
    let writer = convert_checkpoint(folder, storage)?
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.pre", "gpt-2")
        .key("tokenizer.ggml.tokens", tokens)
        .key("tokenizer.ggml.token_type", types)
        .key("tokenizer.ggml.merges", vec!["< 1".to_owned()])
        .key("tokenizer.ggml.bos_token_id", 1_u32)
        .key("tokenizer.ggml.eos_token_id", 2_u32)
        .key("tokenizer.ggml.add_bos_token", false);
    std::fs::write(file, writer.build())?;
    Ok(())
}
