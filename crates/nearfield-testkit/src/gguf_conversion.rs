//! Turns a small published checkpoint into a GGUF file, changing names and values as the usual converters do.
//!
//! The rules are those of the format, written here a second time on purpose: the reader under test must undo them
//! without sharing their code.

mod gemma4;
mod qwen35;

use std::{error::Error, f64::consts::PI, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::gguf_writer::{GgufValue, GgufWriter};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How matrices are stored in the result. Vectors are always F32, as converters have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixStorage {
    /// Four bytes an element.
    F32,
    /// Rounded to half precision.
    F16,
    /// Rounded to the upper half of a single.
    Bf16,
}

impl MatrixStorage {
    /// The format's type number and the bytes of `values`.
    pub fn encode(self, values: &[f32]) -> (u32, Vec<u8>) {
        match self {
            Self::F32 => (0, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::F16 => (1, values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()),
            Self::Bf16 => {
                (30, values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect())
            }
        }
    }
}

/// A tensor of a checkpoint as `f32`.
#[derive(Clone, Debug)]
pub struct PlainTensor {
    /// Published name.
    pub name: String,
    /// Slowest-varying first.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub values: Vec<f32>,
}

/// The tensors of one safetensors file, in the order of their names. Other types than F32, F16, BF16 and I32 are
/// errors.
pub fn read_safetensors(path: &Path) -> Result<Vec<PlainTensor>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut tensors = file
        .iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
                Dtype::I32 => {
                    data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes) as f32).collect()
                }
                Dtype::F16 => {
                    data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
                }
                Dtype::BF16 => {
                    data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
                }
                other => return Err(format!("tensor {name} has the type {other:?}").into()),
            };
            Ok(PlainTensor { name: name.to_owned(), shape: view.shape().to_vec(), values })
        })
        .collect::<Result<Vec<_>>>()?;
    tensors.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tensors)
}

/// Stores a matrix: from its GGUF name, the number of columns and the row-major elements to a type number and bytes.
pub type Encode<'a> = dyn FnMut(&str, usize, &[f32]) -> (u32, Vec<u8>) + 'a;

/// Converts the checkpoint in `folder` (`config.json`, `model.safetensors`) of the families `llama`, `qwen2`, `qwen3`,
/// `gemma3`, `gemma4`, `qwen3_5` or `qwen3_5_moe`. The file has no tokenizer.
pub fn convert_checkpoint(folder: &Path, storage: MatrixStorage) -> Result<GgufWriter> {
    convert_checkpoint_with(folder, &mut |_, _, values| storage.encode(values))
}

/// As [`convert_checkpoint`], with matrices stored by `encode`.
pub fn convert_checkpoint_with(folder: &Path, encode: &mut Encode<'_>) -> Result<GgufWriter> {
    let outer: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let config = outer.get("text_config").unwrap_or(&outer);
    let source = Source { arch: arch_of(&outer)?, config };
    let mut writer = source.metadata(GgufWriter::new())?;
    if let Some(divisors) = source.frequency_divisors() {
        writer = writer.f32_tensor("rope_freqs.weight", &[divisors.len() as u64], &divisors);
    }
    let tied = source.config.get("tie_word_embeddings").or(outer.get("tie_word_embeddings"));
    let tied = tied.and_then(Value::as_bool).unwrap_or(source.arch.starts_with("gemma"));
    for tensor in read_safetensors(&folder.join("model.safetensors"))? {
        let name = tensor.name.replacen("language_model.", "", 1);
        let Some(gguf_name) = source.gguf_name(&name) else { continue };
        if gguf_name == "output.weight" && tied {
            continue;
        }
        let tensor = source.changed(&name, &tensor)?;
        let tensors = match gguf_name.strip_suffix("ffn_gate_up_exps.weight") {
            Some(block) if source.is_qwen35() => {
                let [gate, up] = qwen35::cut_stack(&tensor)?;
                vec![
                    (format!("{block}ffn_gate_exps.weight"), gate),
                    (format!("{block}ffn_up_exps.weight"), up),
                ]
            }
            _ => vec![(gguf_name, tensor)],
        };
        for (gguf_name, tensor) in tensors {
            let dimensions: Vec<u64> = tensor.shape.iter().rev().map(|&size| size as u64).collect();
            // Kernels of convolutions are never stored in fewer bits.
            let (type_id, bytes) = match tensor.shape.as_slice() {
                [_, columns] | [_, _, columns] if !gguf_name.contains("conv1d") => {
                    encode(&gguf_name, *columns, &tensor.values)
                }
                _ => MatrixStorage::F32.encode(&tensor.values),
            };
            writer = writer.tensor(&gguf_name, &dimensions, type_id, bytes);
        }
    }
    Ok(writer)
}

fn arch_of(config: &Value) -> Result<&'static str> {
    match config.get("model_type").and_then(Value::as_str) {
        Some("llama") => Ok("llama"),
        Some("qwen2") => Ok("qwen2"),
        Some("qwen3") => Ok("qwen3"),
        Some("gemma3" | "gemma3_text") => Ok("gemma3"),
        Some("gemma4") => Ok("gemma4"),
        Some("qwen3_5") => Ok("qwen35"),
        Some("qwen3_5_moe") => Ok("qwen35moe"),
        other => Err(format!("no conversion for model_type {other:?}").into()),
    }
}

struct Source<'a> {
    arch: &'static str,
    config: &'a Value,
}

impl Source<'_> {
    fn number(&self, key: &str) -> Option<f64> {
        self.config.get(key).and_then(Value::as_f64)
    }

    fn size(&self, key: &str) -> Result<u32> {
        let size = self.config.get(key).and_then(Value::as_u64).ok_or_else(|| format!("{key} is missing"))?;
        Ok(u32::try_from(size)?)
    }

    fn heads(&self) -> Result<(u32, u32)> {
        let heads = self.size("num_attention_heads")?;
        Ok((heads, self.size("num_key_value_heads").unwrap_or(heads)))
    }

    fn head_size(&self) -> Result<u32> {
        match self.size("head_dim") {
            Ok(size) => Ok(size),
            Err(_) => Ok(self.size("hidden_size")? / self.heads()?.0),
        }
    }

    fn metadata(&self, writer: GgufWriter) -> Result<GgufWriter> {
        let arch = self.arch;
        let key = |name: &str| format!("{arch}.{name}");
        let (heads, key_value_heads) = self.heads()?;
        let mut writer = writer
            .key("general.architecture", arch)
            .key("general.name", "tiny")
            .key(&key("context_length"), self.size("max_position_embeddings")?)
            .key(&key("embedding_length"), self.size("hidden_size")?)
            .key(&key("attention.head_count"), heads)
            .key(
                &key("attention.layer_norm_rms_epsilon"),
                self.number("rms_norm_eps").unwrap_or(1e-6) as f32,
            );
        if arch == "gemma4" {
            return self.gemma4_metadata(writer.key("gemma4.block_count", self.size("num_hidden_layers")?));
        }
        writer = writer.key(&key("attention.head_count_kv"), key_value_heads);
        if self.config.get("head_dim").is_some() {
            writer = writer
                .key(&key("attention.key_length"), self.head_size()?)
                .key(&key("attention.value_length"), self.head_size()?);
        }
        if self.is_qwen35() {
            return self.qwen35_metadata(writer);
        }
        writer = writer
            .key(&key("block_count"), self.size("num_hidden_layers")?)
            .key(&key("feed_forward_length"), self.size("intermediate_size")?);
        let default_theta = if arch == "gemma3" { 1e6 } else { 1e4 };
        let theta = self.number("rope_theta").unwrap_or(default_theta);
        writer = writer.key(&key("rope.freq_base"), theta as f32);
        if arch == "llama" {
            writer = writer
                .key(&key("rope.dimension_count"), self.head_size()?)
                .key(&key("vocab_size"), self.size("vocab_size")?);
        }
        if arch == "gemma3" {
            writer = self.gemma_metadata(writer)?;
        }
        Ok(writer)
    }

    /// The period of global layers is stored as a flag per layer, and the attention scale, which files of published
    /// sizes leave to be guessed, is stated.
    fn gemma_metadata(&self, mut writer: GgufWriter) -> Result<GgufWriter> {
        let pattern = self.size("sliding_window_pattern").unwrap_or(6);
        let sliding: Vec<bool> =
            (1..=self.size("num_hidden_layers")?).map(|number| !number.is_multiple_of(pattern)).collect();
        let scalar = self.number("query_pre_attn_scalar").unwrap_or(256.0);
        writer = writer
            .key("gemma3.attention.sliding_window", self.size("sliding_window")?)
            .key("gemma3.attention.sliding_window_pattern", sliding)
            .key("gemma3.attention.scale", scalar.sqrt().recip() as f32)
            .key("gemma3.rope.freq_base_swa", self.number("rope_local_base_freq").unwrap_or(1e4) as f32);
        if let Some(scaling) = self.config.get("rope_scaling").filter(|scaling| !scaling.is_null()) {
            let factor = scaling.get("factor").and_then(Value::as_f64).ok_or("rope_scaling has no factor")?;
            writer = writer
                .key("gemma3.rope.scaling.type", "linear")
                .key("gemma3.rope.scaling.factor", GgufValue::F32(factor as f32));
        }
        Ok(writer)
    }

    /// The divisors that stand for Llama 3's scaling of frequencies.
    #[expect(
        clippy::disallowed_methods,
        reason = "rounded to f32 and compared with a tolerance, so any power will do"
    )]
    fn frequency_divisors(&self) -> Option<Vec<f32>> {
        let scaling = self.config.get("rope_scaling")?;
        if self.arch != "llama" || scaling.get("rope_type")?.as_str()? != "llama3" {
            return None;
        }
        let number = |key: &str| scaling.get(key).and_then(Value::as_f64);
        let (factor, low, high) =
            (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
        let original = number("original_max_position_embeddings")?;
        let (theta, dimension) = (self.number("rope_theta")?, f64::from(self.head_size().ok()?));
        let divisor = |pair: u32| {
            let wavelength = 2.0 * PI * theta.powf(f64::from(2 * pair) / dimension);
            if wavelength < original / high {
                return 1.0;
            }
            if wavelength > original / low {
                return factor;
            }
            let blend = (original / wavelength - low) / (high - low);
            ((1.0 - blend) / factor + blend).recip()
        };
        Some((0..self.head_size().ok()? / 2).map(|pair| divisor(pair) as f32).collect())
    }

    /// The GGUF name of a tensor; `None` for one that is not of the text model.
    fn gguf_name(&self, name: &str) -> Option<String> {
        match name {
            "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
            "model.norm.weight" => return Some("output_norm.weight".to_owned()),
            "lm_head.weight" => return Some("output.weight".to_owned()),
            _ => {}
        }
        if self.is_qwen35() {
            return self.qwen35_name(name);
        }
        if self.arch == "gemma4"
            && let Some(name) = Self::gemma4_name(name)
        {
            return Some(name);
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (stem, suffix) = rest.rsplit_once('.')?;
        let gemma = self.arch.starts_with("gemma");
        let stem = match stem {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "post_attention_layernorm" if gemma => "post_attention_norm",
            "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{stem}.{suffix}"))
    }

    /// Gemma 3's norms get their 1 added; Llama's queries and keys are permuted to adjacent pairs.
    fn changed(&self, name: &str, tensor: &PlainTensor) -> Result<PlainTensor> {
        if self.is_qwen35() {
            return self.qwen35_changed(name, tensor);
        }
        let heads = self.heads().unwrap_or((1, 1));
        let values = match self.arch {
            "gemma3" if name.ends_with("norm.weight") => {
                tensor.values.iter().map(|value| value + 1.0).collect()
            }
            "llama" if name.ends_with("q_proj.weight") => adjacent_pairs(tensor, heads.0 as usize),
            "llama" if name.ends_with("k_proj.weight") => adjacent_pairs(tensor, heads.1 as usize),
            _ => return Ok(tensor.clone()),
        };
        Ok(PlainTensor { values, ..tensor.clone() })
    }
}

/// Reorders the rows of each head: row `i` of the first half and row `i` of the second become neighbours.
fn adjacent_pairs(tensor: &PlainTensor, heads: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = tensor.values.chunks(tensor.shape.last().copied().unwrap_or(1).max(1)).collect();
    let head_size = rows.len() / heads.max(1);
    let half = head_size / 2;
    let order = (0..heads).flat_map(|head| {
        (0..half).flat_map(move |pair| [head * head_size + pair, head * head_size + half + pair])
    });
    order.filter_map(|row| rows.get(row)).flat_map(|row| row.iter().copied()).collect()
}
