//! Proof that the parity tests would notice a mistake: each is planted in the model, and the check must then fail.

use std::collections::HashMap;
use std::path::Path;

use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::{PlainTensor, read_safetensors};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

use crate::parity::{TOLERANCE, difference};
use crate::support::{FIXTURES, Reference, folder};

/// A checkpoint that can be changed before it is opened.
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    tensors: Vec<PlainTensor>,
}

impl Checkpoint {
    pub(crate) fn of(name: &str) -> Self {
        let folder = folder(name);
        Self {
            config: serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap(),
            tensors: read_safetensors(&folder.join("model.safetensors")).unwrap(),
        }
    }

    /// The settings of the text model.
    pub(crate) fn text(&mut self) -> &mut Value {
        if self.config.get("text_config").is_some() {
            &mut self.config["text_config"]
        } else {
            &mut self.config
        }
    }

    pub(crate) fn size(&mut self, key: &str, default: u64) -> usize {
        self.text().get(key).and_then(Value::as_u64).unwrap_or(default) as usize
    }

    fn head_size(&mut self) -> usize {
        let share = self.size("hidden_size", 0) / self.size("num_attention_heads", 1);
        self.size("head_dim", share as u64)
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut PlainTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name.ends_with(name)).unwrap()
    }

    /// Cuts the inner width of every feed-forward block to this one.
    pub(crate) fn narrow_feed_forward(&mut self, width: usize) {
        for tensor in self.tensors.iter_mut().filter(|tensor| tensor.name.contains(".mlp.")) {
            let columns = tensor.shape[1];
            if tensor.name.contains("down_proj") {
                let rows = tensor.values.chunks_exact(columns);
                tensor.values = rows.flat_map(|row| row[..width].to_vec()).collect();
                tensor.shape[1] = width;
            } else {
                tensor.values.truncate(width * columns);
                tensor.shape[0] = width;
            }
        }
    }

    /// Writes it as a checkpoint in `f32` and opens that.
    pub(crate) fn open(&self) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let bytes: HashMap<&str, Vec<u8>> = self
            .tensors
            .iter()
            .map(|tensor| {
                let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (tensor.name.as_str(), bytes)
            })
            .collect();
        let views = self.tensors.iter().map(|tensor| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &bytes[tensor.name.as_str()]);
            (tensor.name.as_str(), view.unwrap())
        });
        std::fs::write(folder.path().join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
        let config = serde_json::to_vec(&self.config).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Model::open(folder.path()).unwrap()
    }
}

pub(crate) fn off(model: &Model, name: &str) -> f32 {
    difference(model, &Reference::of(name), &[100])
}

/// Asserts that the check fails for a checkpoint changed like this.
pub(crate) fn must_fail(name: &str, what: &str, change: impl FnOnce(&mut Checkpoint)) {
    let mut checkpoint = Checkpoint::of(name);
    change(&mut checkpoint);
    let off = off(&checkpoint.open(), name);
    assert!(off > 2.0 * TOLERANCE, "{name}: nothing notices {what} (off by {off})");
}

#[test]
fn an_unchanged_copy_passes() {
    for name in FIXTURES {
        let off = off(&Checkpoint::of(name).open(), name);
        assert!(off <= TOLERANCE, "{name}: off by {off}");
    }
}

/// Names of the text model's tensors that end with one of these.
pub(crate) fn names(name: &str, ends: &[&str]) -> Vec<String> {
    let tensors = Checkpoint::of(name).tensors.into_iter().map(|tensor| tensor.name);
    tensors
        .filter(|name| {
            name.contains("model.") && !name.contains("vision") && ends.iter().any(|end| name.ends_with(end))
        })
        .collect()
}

#[test]
fn every_norm_is_noticed() {
    for name in FIXTURES {
        let gemma = name.starts_with("gemma");
        let norms = names(name, &["norm.weight"]);
        let kinds = match name {
            "qwen3" => 4,
            "gemma3" | "gemma3_nested" => 6,
            _ => 2,
        };
        let layers = Checkpoint::of(name).size("num_hidden_layers", 0);
        assert_eq!(norms.len(), kinds * layers + 1, "{name}: {norms:?}");
        for norm in norms {
            // As if the norm had no weight; and as if its convention were the other one.
            let neutral = if gemma { 0.0 } else { 1.0 };
            must_fail(name, &format!("{norm} left out"), |c| c.tensor(&norm).values.fill(neutral));
            let other = if gemma { -1.0 } else { 1.0 };
            must_fail(name, &format!("{norm} in the other convention"), |c| {
                c.tensor(&norm).values.iter_mut().for_each(|value| *value += other);
            });
        }
    }
}

#[test]
fn every_bias_is_noticed() {
    for name in FIXTURES {
        let biases = names(name, &["_proj.bias"]);
        let kinds = if name == "qwen2" { 3 } else { 0 };
        assert_eq!(biases.len(), kinds * Checkpoint::of(name).size("num_hidden_layers", 0), "{name}");
        for bias in biases {
            must_fail(name, &format!("{bias} left out"), |c| c.tensor(&bias).values.fill(0.0));
        }
    }
}

#[test]
fn every_matrix_is_noticed() {
    for name in FIXTURES {
        for matrix in names(name, &["_proj.weight"]) {
            // As if the neighbouring row had been taken.
            must_fail(name, &format!("{matrix} shifted by a row"), |c| {
                let tensor = c.tensor(&matrix);
                let columns = tensor.shape[1];
                tensor.values.rotate_left(columns);
            });
        }
    }
}

/// Exchanges two heads among the rows of a projection.
fn exchange_heads(checkpoint: &mut Checkpoint, name: &str, heads: (usize, usize), head_size: usize) {
    let tensor = checkpoint.tensor(name);
    let width = tensor.shape.get(1).copied().unwrap_or(1) * head_size;
    for i in 0..width {
        tensor.values.swap(heads.0 * width + i, heads.1 * width + i);
    }
}

#[test]
fn the_map_of_heads_is_noticed() {
    for name in FIXTURES {
        let mut checkpoint = Checkpoint::of(name);
        let layers = checkpoint.size("num_hidden_layers", 0);
        let (heads, size) = (checkpoint.size("num_attention_heads", 1), checkpoint.head_size());
        let key_value_heads = checkpoint.size("num_key_value_heads", heads as u64);
        for layer in 0..layers {
            let part = |part: &str| format!("layers.{layer}.self_attn.{part}");
            // As if queries read the heads of keys and values in another order.
            if key_value_heads > 1 {
                must_fail(name, "keys and values of the other head", |c| {
                    for weight in ["k_proj.weight", "v_proj.weight"] {
                        exchange_heads(c, &part(weight), (0, 1), size);
                    }
                    if name == "qwen2" {
                        exchange_heads(c, &part("k_proj.bias"), (0, 1), size);
                        exchange_heads(c, &part("v_proj.bias"), (0, 1), size);
                    }
                });
                // Query head h reads h modulo the number of key and value heads, not h divided by the group.
                must_fail(name, "heads dealt out in turn", |c| {
                    exchange_heads(c, &part("q_proj.weight"), (1, heads / key_value_heads), size);
                });
            }
            must_fail(name, "query heads in another order", |c| {
                exchange_heads(c, &part("q_proj.weight"), (0, heads - 1), size);
            });
        }
    }
}

#[test]
fn rotations_are_noticed() {
    for name in FIXTURES {
        for factor in [0.5, 1.5] {
            must_fail(name, "another theta", |c| {
                let theta = c.text().get("rope_theta").and_then(Value::as_f64).unwrap_or(1e6);
                c.text()["rope_theta"] = json!(theta * factor);
            });
        }
        let size = Checkpoint::of(name).head_size();
        must_fail(name, "adjacent components rotated together", |c| {
            for projection in ["q_proj.weight", "k_proj.weight"] {
                let names = names(name, &[projection]);
                for matrix in names {
                    adjacent_to_halves(c.tensor(&matrix), size);
                }
            }
        });
    }
    must_fail("llama", "frequencies that are not scaled", |c| c.config["rope_scaling"] = Value::Null);
    for (key, value) in [("factor", 4.0), ("high_freq_factor", 8.0), ("low_freq_factor", 2.0)] {
        must_fail("llama", key, |c| c.config["rope_scaling"][key] = json!(value));
    }
    must_fail("llama", "another original context", |c| {
        c.config["rope_scaling"]["original_max_position_embeddings"] = json!(64);
    });
    must_fail("gemma3_nested", "frequencies that are not scaled", |c| {
        c.text()["rope_scaling"] = Value::Null;
    });
    for name in ["gemma3", "gemma3_nested"] {
        must_fail(name, "another local theta", |c| c.text()["rope_local_base_freq"] = json!(20_000));
        must_fail(name, "one theta for all layers", |c| c.text()["rope_local_base_freq"] = json!(1e6));
    }
}

/// Reorders the rows of each head so that what was `2i` and `2i + 1` meets as `i` and `i + half`.
fn adjacent_to_halves(tensor: &mut PlainTensor, head_size: usize) {
    let columns = tensor.shape[1];
    let rows: Vec<Vec<f32>> = tensor.values.chunks_exact(columns).map(<[f32]>::to_vec).collect();
    let half = head_size / 2;
    tensor.values = (0..rows.len())
        .flat_map(|row| {
            let (head, i) = (row / head_size, row % head_size);
            let from = if i < half { 2 * i } else { 2 * (i - half) + 1 };
            rows[head * head_size + from].clone()
        })
        .collect();
}

#[test]
fn windows_and_scales_are_noticed() {
    for name in ["gemma3", "gemma3_nested"] {
        for window in [15, 17, 512] {
            must_fail(name, "another window", |c| c.text()["sliding_window"] = json!(window));
        }
        must_fail(name, "other global layers", |c| c.text()["sliding_window_pattern"] = json!(2));
        must_fail(name, "another attention scale", |c| c.text()["query_pre_attn_scalar"] = json!(20));
    }
    for name in FIXTURES {
        must_fail(name, "another epsilon", |c| c.text()["rms_norm_eps"] = json!(1e-2));
        must_fail(name, "embeddings with another factor", |c| {
            c.tensor("embed_tokens.weight").values.iter_mut().for_each(|value| *value *= 1.05);
        });
    }
    for name in ["llama", "qwen3"] {
        must_fail(name, "a head that is the embedding", |c| c.config["tie_word_embeddings"] = json!(true));
    }
}

#[test]
fn gemma_head_is_tied_even_if_nobody_says_so() {
    assert!(Model::open(Path::new(&folder("gemma3"))).unwrap().tensors().is_head_tied());
}
