//! Qwen3.5 and Qwen3.6: norms get their 1 added, value heads are dealt out in turn, the stacked gates and ups of experts
//! are cut apart, and the draft head becomes one more block.

use super::{PlainTensor, Result, Source};
use crate::gguf_writer::GgufWriter;

/// Which part of a tensor is ordered by value heads.
enum ByHead {
    /// Rows from this one on, as many for each head.
    Rows { from: usize, each: usize },
    /// All columns.
    Columns { each: usize },
}

impl Source<'_> {
    pub(super) fn is_qwen35(&self) -> bool {
        self.arch.starts_with("qwen35")
    }

    pub(super) fn qwen35_metadata(&self, mut writer: GgufWriter) -> Result<GgufWriter> {
        let key = |name: &str| format!("{}.{name}", self.arch);
        let drafts = self.size("mtp_num_hidden_layers").unwrap_or(0);
        let parameters = self.config.get("rope_parameters").ok_or("rope_parameters is missing")?;
        let number = |key: &str| parameters.get(key).and_then(serde_json::Value::as_f64);
        let head_size = self.head_size()?;
        let value_heads = self.size("linear_num_value_heads")?;
        let turning = number("partial_rotary_factor").unwrap_or(0.25) * f64::from(head_size);
        if drafts > 0 {
            writer = writer.key(&key("nextn_predict_layers"), drafts);
        }
        writer = writer
            .key(&key("block_count"), self.size("num_hidden_layers")? + drafts)
            .key(&key("rope.freq_base"), number("rope_theta").unwrap_or(1e7) as f32)
            .key(&key("rope.dimension_count"), turning as u32)
            .key(&key("rope.dimension_sections"), vec![2_i32, 1, 1, 0])
            .key(&key("full_attention_interval"), self.size("full_attention_interval").unwrap_or(4))
            .key(&key("ssm.conv_kernel"), self.size("linear_conv_kernel_dim").unwrap_or(4))
            .key(&key("ssm.state_size"), self.size("linear_key_head_dim")?)
            .key(&key("ssm.group_count"), self.size("linear_num_key_heads")?)
            .key(&key("ssm.time_step_rank"), value_heads)
            .key(&key("ssm.inner_size"), value_heads * self.size("linear_value_head_dim")?);
        if self.arch == "qwen35moe" {
            let shared = self.size("shared_expert_intermediate_size")?;
            writer = writer
                .key(&key("expert_count"), self.size("num_experts")?)
                .key(&key("expert_used_count"), self.size("num_experts_per_tok")?)
                .key(&key("expert_feed_forward_length"), self.size("moe_intermediate_size")?)
                .key(&key("expert_shared_feed_forward_length"), shared);
        } else {
            writer = writer.key(&key("feed_forward_length"), self.size("intermediate_size")?);
        }
        Ok(writer)
    }

    pub(super) fn qwen35_name(&self, name: &str) -> Option<String> {
        let last = self.size("num_hidden_layers").ok()?;
        let outside = match name {
            "mtp.fc.weight" => "eh_proj",
            "mtp.pre_fc_norm_embedding.weight" => "enorm",
            "mtp.pre_fc_norm_hidden.weight" => "hnorm",
            "mtp.norm.weight" => "shared_head_norm",
            _ => "",
        };
        if !outside.is_empty() {
            return Some(format!("blk.{last}.nextn.{outside}.weight"));
        }
        let (layer, rest) = if let Some(rest) = name.strip_prefix("mtp.layers.0.") {
            (last.to_string(), rest)
        } else {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            (layer.to_owned(), rest)
        };
        let inside = match rest {
            "input_layernorm.weight" => "attn_norm.weight",
            "post_attention_layernorm.weight" => "post_attention_norm.weight",
            "self_attn.q_proj.weight" => "attn_q.weight",
            "self_attn.k_proj.weight" => "attn_k.weight",
            "self_attn.v_proj.weight" => "attn_v.weight",
            "self_attn.o_proj.weight" => "attn_output.weight",
            "self_attn.q_norm.weight" => "attn_q_norm.weight",
            "self_attn.k_norm.weight" => "attn_k_norm.weight",
            "linear_attn.in_proj_qkv.weight" => "attn_qkv.weight",
            "linear_attn.in_proj_z.weight" => "attn_gate.weight",
            "linear_attn.in_proj_b.weight" => "ssm_beta.weight",
            "linear_attn.in_proj_a.weight" => "ssm_alpha.weight",
            "linear_attn.dt_bias" => "ssm_dt.bias",
            "linear_attn.A_log" => "ssm_a",
            "linear_attn.conv1d.weight" => "ssm_conv1d.weight",
            "linear_attn.norm.weight" => "ssm_norm.weight",
            "linear_attn.out_proj.weight" => "ssm_out.weight",
            "mlp.gate_proj.weight" => "ffn_gate.weight",
            "mlp.up_proj.weight" => "ffn_up.weight",
            "mlp.down_proj.weight" => "ffn_down.weight",
            "mlp.gate.weight" => "ffn_gate_inp.weight",
            "mlp.shared_expert_gate.weight" => "ffn_gate_inp_shexp.weight",
            "mlp.shared_expert.gate_proj.weight" => "ffn_gate_shexp.weight",
            "mlp.shared_expert.up_proj.weight" => "ffn_up_shexp.weight",
            "mlp.shared_expert.down_proj.weight" => "ffn_down_shexp.weight",
            "mlp.experts.gate_up_proj" => "ffn_gate_up_exps.weight",
            "mlp.experts.down_proj" => "ffn_down_exps.weight",
            _ => return None,
        };
        Some(format!("blk.{layer}.{inside}"))
    }

    /// A tensor as the file has it: shape and values.
    pub(super) fn qwen35_changed(&self, name: &str, tensor: &PlainTensor) -> Result<PlainTensor> {
        let mut changed = tensor.clone();
        if name.ends_with("norm.weight") && !name.contains("linear_attn")
            || name.starts_with("mtp.pre_fc_norm")
        {
            changed.values.iter_mut().for_each(|value| *value += 1.0);
        }
        if name.ends_with("A_log") {
            #[expect(clippy::disallowed_methods, reason = "rounded to f32 and compared with a tolerance")]
            changed.values.iter_mut().for_each(|value| *value = -(f64::from(*value).exp() as f32));
        }
        // The kernel of a convolution over one channel, and a matrix of one row, lose the size of 1.
        if name.ends_with("conv1d.weight") || name.ends_with("shared_expert_gate.weight") {
            changed.shape.retain(|size| *size != 1);
        }
        let (key_heads, value_heads) =
            (self.size("linear_num_key_heads")? as usize, self.size("linear_num_value_heads")? as usize);
        let each = self.size("linear_value_head_dim")? as usize;
        let keys = 2 * key_heads * self.size("linear_key_head_dim")? as usize;
        let by_head = match name.rsplit_once("linear_attn.").map(|(_, rest)| rest) {
            Some("in_proj_qkv.weight" | "conv1d.weight") => ByHead::Rows { from: keys, each },
            Some("in_proj_z.weight") => ByHead::Rows { from: 0, each },
            Some("in_proj_a.weight" | "in_proj_b.weight" | "A_log" | "dt_bias") => {
                ByHead::Rows { from: 0, each: 1 }
            }
            Some("out_proj.weight") => ByHead::Columns { each },
            _ => return Ok(changed),
        };
        // Where head `s` of the file comes from.
        let group = value_heads / key_heads;
        let order: Vec<usize> = (0..value_heads).map(|s| s % key_heads * group + s / key_heads).collect();
        reorder(&mut changed, &by_head, &order);
        Ok(changed)
    }
}

fn reorder(tensor: &mut PlainTensor, by_head: &ByHead, order: &[usize]) {
    let columns = if tensor.shape.len() == 1 { 1 } else { tensor.shape.last().copied().unwrap_or(1) };
    let old = tensor.values.clone();
    match by_head {
        ByHead::Rows { from, each } => {
            let width = each * columns;
            for (head, source) in order.iter().enumerate() {
                let (to, source) = (from * columns + head * width, from * columns + source * width);
                tensor.values[to..to + width].copy_from_slice(&old[source..source + width]);
            }
        }
        ByHead::Columns { each } => {
            for (row, old) in tensor.values.chunks_exact_mut(columns).zip(old.chunks_exact(columns)) {
                for (head, source) in order.iter().enumerate() {
                    row[head * each..][..*each].copy_from_slice(&old[source * each..][..*each]);
                }
            }
        }
    }
}

/// Cuts a stack of gates and ups, one below the other for each expert, into two stacks.
pub(super) fn cut_stack(tensor: &PlainTensor) -> Result<[PlainTensor; 2]> {
    let [experts, rows, columns] = tensor.shape[..] else {
        return Err("a stack has three dimensions".into());
    };
    let half = rows / 2 * columns;
    let part = |number: usize| PlainTensor {
        name: tensor.name.clone(),
        shape: vec![experts, rows / 2, columns],
        values: tensor
            .values
            .chunks_exact(rows * columns)
            .flat_map(|expert| expert[number * half..][..half].to_vec())
            .collect(),
    };
    Ok([part(0), part(1)])
}
