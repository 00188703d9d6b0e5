//! The traps of Gemma 4, Qwen3.5 and Qwen3.6, each planted in the model: the comparison with the reference must notice.

use nearfield_model::Model;
use serde_json::{Value, json};

use crate::mutations::{Checkpoint, must_fail, names, off};
use crate::parity::TOLERANCE;
use crate::support::folder;

const GEMMA: [&str; 3] = ["gemma4_ple", "gemma4_dense", "gemma4_moe"];
const QWEN: [&str; 2] = ["qwen3_5", "qwen3_5_moe"];
/// The first layer of `gemma4_ple` that has tensors of keys and values which it does not use.
const FIRST_STALE: usize = 5;

/// Whether a tensor belongs to keys and values that the layer does not use.
fn stale(name: &str, tensor: &str) -> bool {
    let part = ["k_norm", "k_proj", "v_proj"].iter().any(|part| tensor.contains(part));
    name == "gemma4_ple"
        && part
        && (FIRST_STALE..8).any(|layer| tensor.contains(&format!(".layers.{layer}.")))
}

#[test]
fn every_norm_follows_its_own_convention() {
    for name in GEMMA.into_iter().chain(QWEN) {
        let norms = names(name, &["norm.weight", "layernorm_1.weight", "layernorm_2.weight"]);
        assert!(norms.len() > 12, "{name}: {norms:?}");
        for norm in norms.iter().filter(|norm| !norm.contains("mtp.") && !stale(name, norm)) {
            // Centred on zero in Qwen, but for the one inside the delta network; plain in Gemma 4.
            let centred = QWEN.contains(&name) && !norm.contains("linear_attn");
            let (neutral, other) = if centred { (0.0, -1.0) } else { (1.0, 1.0) };
            must_fail(name, &format!("{norm} left out"), |c| c.tensor(norm).values.fill(neutral));
            must_fail(name, &format!("{norm} in the other convention"), |c| {
                c.tensor(norm).values.iter_mut().for_each(|value| *value += other);
            });
        }
    }
}

#[test]
fn every_matrix_is_noticed() {
    for name in GEMMA.into_iter().chain(QWEN) {
        let ends = [
            "_proj.weight",
            "in_proj_a.weight",
            "in_proj_b.weight",
            "in_proj_z.weight",
            "in_proj_qkv.weight",
            "input_gate.weight",
            "layer_projection.weight",
            "model_projection.weight",
            "router.proj.weight",
            "mlp.gate.weight",
            "experts.gate_up_proj",
            "experts.down_proj",
            "embed_tokens_per_layer.weight",
        ];
        for matrix in names(name, &ends) {
            if stale(name, &matrix) {
                continue;
            }
            must_fail(name, &format!("{matrix} shifted by a row"), |c| {
                let tensor = c.tensor(&matrix);
                let columns = *tensor.shape.last().unwrap();
                tensor.values.rotate_left(columns);
            });
        }
    }
}

#[test]
fn gemma_scores_are_not_scaled_and_values_are_normed() {
    for name in GEMMA {
        must_fail(name, "scores divided by the root of the head size", |c| {
            for norm in names(name, &["q_norm.weight"]) {
                let tensor = c.tensor(&norm);
                let factor = (tensor.values.len() as f32).sqrt().recip();
                tensor.values.iter_mut().for_each(|value| *value *= factor);
            }
        });
        // The norm takes the size of values away, so larger ones are the same model.
        let mut larger = Checkpoint::of(name);
        for matrix in names(name, &["v_proj.weight", "k_proj.weight"]) {
            larger.tensor(&matrix).values.iter_mut().for_each(|value| *value *= 4.0);
        }
        let off = off(&larger.open(), name);
        assert!(off <= TOLERANCE, "{name}: values are not normed (off by {off})");
    }
}

#[test]
fn gemma_rotates_a_part_of_the_pairs_of_the_whole_head() {
    for name in GEMMA {
        for part in [0.5, 1.0, 0.125] {
            must_fail(name, "another part of the head that turns", |c| {
                c.text()["rope_parameters"]["full_attention"]["partial_rotary_factor"] = json!(part);
            });
        }
        for kind in ["full_attention", "sliding_attention"] {
            must_fail(name, "another theta", |c| {
                c.text()["rope_parameters"][kind]["rope_theta"] = json!(30_000.0);
            });
        }
        // Component 4 stands where the partner of component 0 would be if only the first 8 of 32 turned.
        must_fail(name, "a rotation of the first quarter alone", |c| {
            for matrix in names(name, &["q_proj.weight"]) {
                let tensor = c.tensor(&matrix);
                let (columns, rows) = (tensor.shape[1], tensor.shape[0]);
                if rows != 128 {
                    continue;
                }
                for head in 0..rows / 32 {
                    for i in 0..4 * columns {
                        let start = head * 32 * columns;
                        tensor.values.swap(start + 4 * columns + i, start + 16 * columns + i);
                    }
                }
            }
        });
    }
}

#[test]
fn gemma_layers_scale_share_and_see_what_they_should() {
    for name in GEMMA {
        // That of the last layer has no effect: a norm follows.
        let last = format!(".layers.{}.", Checkpoint::of(name).size("num_hidden_layers", 0) - 1);
        for scale in names(name, &["layer_scalar"]).iter().filter(|scale| !scale.contains(&last)) {
            must_fail(name, "a layer that does not scale the stream", |c| c.tensor(scale).values.fill(1.0));
        }
        for window in [15, 17] {
            must_fail(name, "another window", |c| c.text()["sliding_window"] = json!(window));
        }
        must_fail(name, "logits without a cap", |c| c.text()["final_logit_softcapping"] = Value::Null);
    }
    // One layer fewer shares, and uses the tensors that nobody should.
    must_fail("gemma4_ple", "keys and values that a layer does not own", |c| {
        c.text()["num_kv_shared_layers"] = json!(2);
        c.text()["use_double_wide_mlp"] = json!(false);
        c.narrow_feed_forward(64);
    });
    must_fail("gemma4_ple", "no inputs of their own for the layers", |c| {
        c.tensor("embed_tokens_per_layer.weight").values.fill(0.0);
    });
}

#[test]
fn routers_and_shared_experts_are_noticed() {
    for (name, key) in [("gemma4_moe", "top_k_experts"), ("qwen3_5_moe", "num_experts_per_tok")] {
        for used in [2, 4] {
            must_fail(name, "another number of experts", |c| c.text()[key] = json!(used));
        }
    }
    for scale in names("gemma4_moe", &["per_expert_scale"]) {
        must_fail("gemma4_moe", "experts without scales", |c| c.tensor(&scale).values.fill(1.0));
    }
    for scale in names("gemma4_moe", &["router.scale"]) {
        must_fail("gemma4_moe", "a router whose input has no scale", |c| c.tensor(&scale).values.fill(1.0));
    }
    for gate in names("qwen3_5_moe", &["shared_expert_gate.weight"]) {
        must_fail("qwen3_5_moe", "a shared expert without a gate", |c| c.tensor(&gate).values.fill(0.0));
    }
}

#[test]
fn qwen_gates_stand_between_the_queries() {
    for name in QWEN {
        must_fail(name, "all queries before all gates", |c| {
            for matrix in names(name, &["q_proj.weight"]) {
                let tensor = c.tensor(&matrix);
                let (columns, size) = (tensor.shape[1], 32);
                let rows: Vec<Vec<f32>> = tensor.values.chunks_exact(columns).map(<[f32]>::to_vec).collect();
                let (heads, half) = (rows.len() / (2 * size), rows.len() / 2);
                let source = |head: usize, gate: usize, i: usize| gate * half + head * size + i;
                let order = (0..heads).flat_map(|head| {
                    (0..2).flat_map(move |gate| (0..size).map(move |i| source(head, gate, i)))
                });
                tensor.values = order.flat_map(|row| rows[row].clone()).collect();
            }
        });
        for part in [0.5, 0.125] {
            must_fail(name, "another part of the head that turns", |c| {
                c.text()["rope_parameters"]["partial_rotary_factor"] = json!(part);
            });
        }
        must_fail(name, "another theta", |c| c.text()["rope_parameters"]["rope_theta"] = json!(1e6));
    }
}

#[test]
fn the_delta_network_is_noticed_in_every_part() {
    for name in QWEN {
        must_fail(name, "value heads at the other key head", |c| {
            for matrix in names(name, &["in_proj_qkv.weight"]) {
                let tensor = c.tensor(&matrix);
                // Queries and keys of two heads of 16.
                let head = 16 * tensor.shape[1];
                for i in 0..head {
                    tensor.values.swap(i, head + i);
                    tensor.values.swap(2 * head + i, 3 * head + i);
                }
            }
        });
        must_fail(name, "a convolution whose first weight meets the current position", |c| {
            for kernel in names(name, &["conv1d.weight"]) {
                c.tensor(&kernel).values.chunks_exact_mut(4).for_each(<[f32]>::reverse);
            }
        });
        for (ending, change) in [("A_log", 0.7), ("dt_bias", 0.7)] {
            for tensor in names(name, &[ending]) {
                must_fail(name, &format!("{tensor} changed"), |c| {
                    c.tensor(&tensor).values.iter_mut().for_each(|value| *value += change);
                });
            }
        }
    }
}

#[test]
fn heads_follow_the_settings_unless_they_are_there() {
    assert!(Model::open(&folder("gemma4_ple")).unwrap().tensors().is_head_tied());
    assert!(!Model::open(&folder("qwen3_5")).unwrap().tensors().is_head_tied());
    for name in QWEN {
        must_fail(name, "a head that is the embedding", |c| {
            c.text()["tie_word_embeddings"] = json!(true);
            c.config["tie_word_embeddings"] = json!(true);
        });
    }
}
