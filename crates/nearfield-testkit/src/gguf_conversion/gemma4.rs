//! Gemma 4: what differs by layer becomes arrays, the slow pairs of global layers get huge divisors, and the experts'
//! scales move to their last matrices.

use serde_json::Value;

use super::{Result, Source};
use crate::gguf_writer::GgufWriter;

/// The divisor of a pair that does not turn.
const STILL: f32 = 1e30;

impl Source<'_> {
    fn sliding(&self) -> Result<Vec<bool>> {
        let types =
            self.config.get("layer_types").and_then(Value::as_array).ok_or("layer_types is missing")?;
        Ok(types.iter().map(|kind| kind == "sliding_attention").collect())
    }

    fn flag(&self, key: &str) -> bool {
        self.config.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn rope_number(&self, kind: &str, key: &str) -> Option<f64> {
        self.config.get("rope_parameters")?.get(kind)?.get(key)?.as_f64()
    }

    pub(super) fn gemma4_metadata(&self, writer: GgufWriter) -> Result<GgufWriter> {
        let sliding = self.sliding()?;
        let (_, local_heads) = self.heads()?;
        let keys_are_values = self.flag("attention_k_eq_v");
        let global_heads = match self.size("num_global_key_value_heads") {
            Ok(heads) if keys_are_values => heads,
            _ => local_heads,
        };
        let shared = self.size("num_kv_shared_layers").unwrap_or(0);
        let first_shared = sliding.len() - shared as usize;
        let wide = self.size("intermediate_size")?;
        let double = self.flag("use_double_wide_mlp");
        let feed_forward: Vec<u32> = (0..sliding.len())
            .map(|layer| if double && layer >= first_shared { 2 * wide } else { wide })
            .collect();
        let heads: Vec<u32> =
            sliding.iter().map(|sliding| if *sliding { local_heads } else { global_heads }).collect();
        let (local, global) = (self.size("head_dim")?, self.size("global_head_dim")?);
        let theta = |kind, default| self.rope_number(kind, "rope_theta").unwrap_or(default) as f32;
        let mut writer = writer
            .key("gemma4.feed_forward_length", feed_forward)
            .key("gemma4.attention.head_count_kv", heads)
            .key("gemma4.attention.key_length", global)
            .key("gemma4.attention.value_length", global)
            .key("gemma4.attention.key_length_swa", local)
            .key("gemma4.attention.value_length_swa", local)
            .key("gemma4.rope.dimension_count", global)
            .key("gemma4.rope.dimension_count_swa", local)
            .key("gemma4.rope.freq_base", theta("full_attention", 1e6))
            .key("gemma4.rope.freq_base_swa", theta("sliding_attention", 1e4))
            .key("gemma4.attention.sliding_window", self.size("sliding_window")?)
            .key("gemma4.attention.sliding_window_pattern", sliding)
            .key("gemma4.attention.shared_kv_layers", shared)
            .key("gemma4.embedding_length_per_layer_input", self.size("hidden_size_per_layer_input")?);
        if let Some(cap) = self.number("final_logit_softcapping") {
            writer = writer.key("gemma4.final_logit_softcapping", cap as f32);
        }
        if self.flag("enable_moe_block") {
            writer = writer
                .key("gemma4.expert_count", self.size("num_experts")?)
                .key("gemma4.expert_used_count", self.size("top_k_experts")?)
                .key("gemma4.expert_feed_forward_length", self.size("moe_intermediate_size")?);
        }
        let pairs = global / 2;
        let part = self.rope_number("full_attention", "partial_rotary_factor").unwrap_or(1.0);
        let turning = (part * f64::from(pairs)) as u32;
        let divisors: Vec<f32> = (0..pairs).map(|pair| if pair < turning { 1.0 } else { STILL }).collect();
        Ok(writer.f32_tensor("rope_freqs.weight", &[u64::from(pairs)], &divisors))
    }

    /// The name outside or inside a layer; `None` for what is not of the text model.
    pub(super) fn gemma4_name(name: &str) -> Option<String> {
        if let Some(rest) = name.strip_prefix("model.") {
            let outside = match rest {
                "embed_tokens_per_layer.weight" => "per_layer_token_embd.weight",
                "per_layer_model_projection.weight" => "per_layer_model_proj.weight",
                "per_layer_projection_norm.weight" => "per_layer_proj_norm.weight",
                _ => "",
            };
            if !outside.is_empty() {
                return Some(outside.to_owned());
            }
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let inside = match rest {
            "layer_scalar" => "layer_output_scale.weight",
            "per_layer_input_gate.weight" => "inp_gate.weight",
            "per_layer_projection.weight" => "proj.weight",
            "post_per_layer_input_norm.weight" => "post_norm.weight",
            "router.proj.weight" => "ffn_gate_inp.weight",
            "router.scale" => "ffn_gate_inp.scale",
            "router.per_expert_scale" => "ffn_down_exps.scale",
            "experts.gate_up_proj" => "ffn_gate_up_exps.weight",
            "experts.down_proj" => "ffn_down_exps.weight",
            "post_feedforward_layernorm_1.weight" => "post_ffw_norm_1.weight",
            "post_feedforward_layernorm_2.weight" => "post_ffw_norm_2.weight",
            "pre_feedforward_layernorm_2.weight" => "pre_ffw_norm_2.weight",
            _ => return None,
        };
        Some(format!("blk.{layer}.{inside}"))
    }
}
