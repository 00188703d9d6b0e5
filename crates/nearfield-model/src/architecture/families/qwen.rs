//! Qwen2 (and 2.5): Llama with biases on queries, keys and values. Qwen3: Llama with a norm on every query and key head.

use super::{
    super::{
        Description, DescriptionError, Family, FamilyDescription, LayerTensor as L, RopePairing,
        config::Config,
        tensor_table::{LayerTensorNames, names},
    },
    plain::{
        self, ATTENTION_NORM, ATTENTION_OUTPUT, DOWN, FEED_FORWARD_NORM, GATE, KEY, KEY_NORM, QUERY,
        QUERY_NORM, UP, VALUE,
    },
};

const QUERY_BIAS: LayerTensorNames = names(L::QueryBias, "attn_q.bias", "self_attn.q_proj.bias");
const KEY_BIAS: LayerTensorNames = names(L::KeyBias, "attn_k.bias", "self_attn.k_proj.bias");
const VALUE_BIAS: LayerTensorNames = names(L::ValueBias, "attn_v.bias", "self_attn.v_proj.bias");

pub(in super::super) const QWEN2: FamilyDescription = FamilyDescription {
    family: Family::Qwen2,
    gguf_name: "qwen2",
    model_types: &["qwen2"],
    classes: &["Qwen2ForCausalLM"],
    layer_tensors: &[
        ATTENTION_NORM,
        QUERY,
        QUERY_BIAS,
        KEY,
        KEY_BIAS,
        VALUE,
        VALUE_BIAS,
        ATTENTION_OUTPUT,
        FEED_FORWARD_NORM,
        GATE,
        UP,
        DOWN,
    ],
    experts: None,
    other_gguf_tensors: &[],
    from_gguf: |settings| plain::from_gguf(settings, Family::Qwen2, RopePairing::Halves, None),
    from_config: |config| from_config(config, Family::Qwen2),
};

pub(in super::super) const QWEN3: FamilyDescription = FamilyDescription {
    family: Family::Qwen3,
    gguf_name: "qwen3",
    model_types: &["qwen3"],
    classes: &["Qwen3ForCausalLM"],
    layer_tensors: &[
        ATTENTION_NORM,
        QUERY,
        KEY,
        VALUE,
        ATTENTION_OUTPUT,
        QUERY_NORM,
        KEY_NORM,
        FEED_FORWARD_NORM,
        GATE,
        UP,
        DOWN,
    ],
    experts: None,
    other_gguf_tensors: &[],
    from_gguf: |settings| plain::from_gguf(settings, Family::Qwen3, RopePairing::Halves, None),
    from_config: |config| from_config(config, Family::Qwen3),
};

/// `sliding_window` and `max_window_layers` mean nothing unless `use_sliding_window` is true, which is not supported.
fn from_config(config: &Config<'_>, family: Family) -> Result<Description, DescriptionError> {
    config.refuse_flag("use_sliding_window")?;
    config.refuse_flag("attention_bias")?;
    plain::from_config(config, family)
}
