//! The published models that Nearfield is made for, known by their shapes without any of their files.
//!
//! Sizes are those of the published `config.json` files.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{architecture::Architecture, error::ModelError};

/// A published model.
#[derive(Clone, Copy, Debug)]
pub struct LineUpModel {
    /// As people write it: `qwen3.6-27b`.
    pub name: &'static str,
    shape: Shape,
    own_head: bool,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Qwen(Qwen),
    Gemma(Gemma),
}

/// Qwen3.5 and 3.6.
#[derive(Clone, Copy, Debug)]
struct Qwen {
    hidden: usize,
    layers: usize,
    /// Width of the dense block; 0 where there are experts.
    feed_forward: usize,
    heads: usize,
    key_value_heads: usize,
    /// Value heads of the delta networks.
    value_heads: usize,
    /// Number, number used, width; the shared expert is as wide.
    experts: Option<[usize; 3]>,
}

/// Gemma 4.
#[derive(Clone, Copy, Debug)]
struct Gemma {
    hidden: usize,
    layers: usize,
    /// Every which layer sees everything.
    period: usize,
    feed_forward: usize,
    heads: usize,
    key_value_heads: usize,
    /// Of layers that see everything, whose values are their keys then.
    global_key_value_heads: Option<usize>,
    window: usize,
    context: usize,
    /// Last layers that read the keys and values of others, and whether their blocks are twice as wide.
    shared: (usize, bool),
    per_layer_input: usize,
    experts: Option<[usize; 3]>,
    model_type: &'static str,
}

const fn qwen(name: &'static str, own_head: bool, shape: Qwen) -> LineUpModel {
    LineUpModel { name, shape: Shape::Qwen(shape), own_head }
}

const fn gemma(name: &'static str, shape: Gemma) -> LineUpModel {
    LineUpModel { name, shape: Shape::Gemma(shape), own_head: false }
}

/// A dense Qwen: hidden size, layers, feed-forward size, heads, heads of keys, value heads.
const fn dense(sizes: [usize; 6]) -> Qwen {
    let [hidden, layers, feed_forward, heads, key_value_heads, value_heads] = sizes;
    Qwen { hidden, layers, feed_forward, heads, key_value_heads, value_heads, experts: None }
}

const E2B: Gemma = Gemma {
    hidden: 1536,
    layers: 35,
    period: 5,
    feed_forward: 6144,
    heads: 8,
    key_value_heads: 1,
    global_key_value_heads: None,
    window: 512,
    context: 131_072,
    shared: (20, true),
    per_layer_input: 256,
    experts: None,
    model_type: "gemma4",
};

const E4B: Gemma = Gemma {
    hidden: 2560,
    layers: 42,
    period: 6,
    feed_forward: 10_240,
    key_value_heads: 2,
    shared: (18, false),
    ..E2B
};

const G31B: Gemma = Gemma {
    hidden: 5376,
    layers: 60,
    period: 6,
    feed_forward: 21_504,
    heads: 32,
    key_value_heads: 16,
    global_key_value_heads: Some(4),
    window: 1024,
    context: 262_144,
    shared: (0, false),
    per_layer_input: 0,
    ..E2B
};

const G12B: Gemma = Gemma {
    hidden: 3840,
    layers: 48,
    feed_forward: 15_360,
    heads: 16,
    key_value_heads: 8,
    global_key_value_heads: Some(1),
    model_type: "gemma4_unified",
    ..G31B
};

const G26B: Gemma = Gemma {
    hidden: 2816,
    layers: 30,
    feed_forward: 2112,
    heads: 16,
    key_value_heads: 8,
    global_key_value_heads: Some(2),
    experts: Some([128, 8, 704]),
    ..G31B
};

const A3B: Qwen = Qwen {
    hidden: 2048,
    layers: 40,
    feed_forward: 0,
    heads: 16,
    key_value_heads: 2,
    value_heads: 32,
    experts: Some([256, 8, 512]),
};

const LINE_UP: [LineUpModel; 9] = [
    qwen("qwen3.5-0.8b", false, dense([1024, 24, 3584, 8, 2, 16])),
    qwen("qwen3.5-9b", true, dense([4096, 32, 12_288, 16, 4, 32])),
    qwen("qwen3.6-27b", true, dense([5120, 64, 17_408, 24, 4, 48])),
    qwen("qwen3.6-35b-a3b", true, A3B),
    gemma("gemma4-e2b", E2B),
    gemma("gemma4-e4b", E4B),
    gemma("gemma4-12b", G12B),
    gemma("gemma4-26b-a4b", G26B),
    gemma("gemma4-31b", G31B),
];

impl LineUpModel {
    /// All of them.
    pub fn all() -> &'static [Self] {
        &LINE_UP
    }

    /// The model of this name, however its letters are written.
    pub fn find(name: &str) -> Option<&'static Self> {
        LINE_UP.iter().find(|model| model.name.eq_ignore_ascii_case(name))
    }

    /// Whether its output head is a matrix of its own.
    pub fn has_own_head(&self) -> bool {
        self.own_head
    }

    /// What its files hold beside the text model, or nothing.
    pub fn not_computed(&self) -> &'static str {
        match self.shape {
            Shape::Qwen(_) => "images",
            Shape::Gemma(shape) if shape.per_layer_input > 0 => "images and sound",
            Shape::Gemma(shape) if shape.model_type == "gemma4_unified" => "images and sound",
            Shape::Gemma(_) => "images",
        }
    }

    /// A `config.json` of this shape.
    pub fn config(&self) -> Map<String, Value> {
        let value = match self.shape {
            Shape::Qwen(shape) => shape.config(self.own_head),
            Shape::Gemma(shape) => shape.config(),
        };
        match value {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// What the engine makes of it.
    ///
    /// # Errors
    /// As [`Architecture::from_config`]; not for the models of the line-up.
    pub fn architecture(&self) -> Result<Architecture, ModelError> {
        let mut architecture = Architecture::from_config(Path::new(self.name), &self.config())?;
        self.name.clone_into(&mut architecture.name);
        Ok(architecture)
    }
}

impl Qwen {
    fn config(self, own_head: bool) -> Value {
        let layer_types: Vec<&str> = (1..=self.layers)
            .map(|number| if number % 4 == 0 { "full_attention" } else { "linear_attention" })
            .collect();
        let suffix = if self.experts.is_some() { "_moe" } else { "" };
        let mut text = json!({
            "model_type": format!("qwen3_5{suffix}_text"),
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": 256,
            "attn_output_gate": true,
            "full_attention_interval": 4,
            "layer_types": layer_types,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": self.value_heads,
            "linear_value_head_dim": 128,
            "max_position_embeddings": 262_144,
            "mtp_num_hidden_layers": 1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_theta": 10_000_000, "rope_type": "default", "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10], "mrope_interleaved": true,
            },
            "vocab_size": 248_320,
            "dtype": "bfloat16",
        });
        match self.experts {
            Some([count, used, size]) => {
                text["num_experts"] = count.into();
                text["num_experts_per_tok"] = used.into();
                text["moe_intermediate_size"] = size.into();
                text["shared_expert_intermediate_size"] = size.into();
            }
            None => text["intermediate_size"] = self.feed_forward.into(),
        }
        let class = if self.experts.is_some() { "Qwen3_5Moe" } else { "Qwen3_5" };
        json!({
            "architectures": [format!("{class}ForConditionalGeneration")],
            "model_type": format!("qwen3_5{suffix}"),
            "text_config": text,
            "tie_word_embeddings": !own_head,
        })
    }
}

impl Gemma {
    fn config(self) -> Value {
        let layer_types: Vec<&str> = (1..=self.layers)
            .map(|number| if number % self.period == 0 { "full_attention" } else { "sliding_attention" })
            .collect();
        let mut text = json!({
            "model_type": format!("{}_text", self.model_type),
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": self.hidden,
            "hidden_size_per_layer_input": self.per_layer_input,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "num_global_key_value_heads": self.global_key_value_heads,
            "attention_k_eq_v": self.global_key_value_heads.is_some(),
            "head_dim": 256,
            "global_head_dim": 512,
            "layer_types": layer_types,
            "sliding_window": self.window,
            "max_position_embeddings": self.context,
            "num_kv_shared_layers": self.shared.0,
            "use_double_wide_mlp": self.shared.1,
            "final_logit_softcapping": 30.0,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25,
                },
                "sliding_attention": { "rope_type": "default", "rope_theta": 10_000.0 },
            },
            "vocab_size": 262_144,
            "vocab_size_per_layer_input": 262_144,
            "dtype": "bfloat16",
        });
        if let Some([count, used, size]) = self.experts {
            text["enable_moe_block"] = true.into();
            text["num_experts"] = count.into();
            text["top_k_experts"] = used.into();
            text["moe_intermediate_size"] = size.into();
        }
        let class = if self.model_type == "gemma4" { "Gemma4" } else { "Gemma4Unified" };
        json!({
            "architectures": [format!("{class}ForConditionalGeneration")],
            "model_type": self.model_type,
            "text_config": text,
            "tie_word_embeddings": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::TensorRole;

    /// Billions of parameters of the text models, counted from the published settings independently of this crate.
    const BILLIONS: [(&str, f64); 9] = [
        ("qwen3.5-0.8b", 0.75),
        ("qwen3.5-9b", 9.0),
        ("qwen3.6-27b", 26.9),
        ("qwen3.6-35b-a3b", 34.7),
        ("gemma4-e2b", 4.6),
        ("gemma4-e4b", 7.5),
        ("gemma4-12b", 11.9),
        ("gemma4-26b-a4b", 25.2),
        ("gemma4-31b", 30.7),
    ];

    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        for (name, billions) in BILLIONS {
            let model = LineUpModel::find(&name.to_uppercase()).unwrap();
            let architecture = model.architecture().unwrap();
            let trunk = architecture.layers.len();
            let in_trunk = |role: TensorRole| match role {
                TensorRole::Draft(_) => false,
                TensorRole::Layer { index, .. } => index < trunk,
                _ => true,
            };
            for tensors in [
                architecture.published_tensors(model.has_own_head()),
                architecture.gguf_tensors(model.has_own_head()),
            ] {
                let count: u64 = tensors
                    .iter()
                    .filter(|tensor| in_trunk(tensor.role))
                    .map(crate::NamedTensor::elements)
                    .sum();
                let found = count as f64 / 1e9;
                assert!((found - billions).abs() < 0.051, "{name}: {found}");
            }
        }
    }
}
