//! What Llama, Qwen2 and Qwen3 have in common: pre-norm layers, one position encoding, full attention, SwiGLU.

use super::super::{
    Activation, Architecture, Attention, Conventions, Description, DescriptionError, Family, FeedForward,
    Head, Layer, LayerTensor as L, Mixer, Rope, RopePairing,
    config::{Config, ConfigDefaults},
    gguf_settings::{GgufBase, GgufSettings},
    rope::{RopeScaling, scaling_from_gguf},
    tensor_table::{LayerTensorNames, names},
};

/// Theta where a file does not say it.
const DEFAULT_THETA: f64 = 10_000.0;

pub(super) const ATTENTION_NORM: LayerTensorNames =
    names(L::AttentionNorm, "attn_norm.weight", "input_layernorm.weight");
pub(super) const QUERY: LayerTensorNames = names(L::Query, "attn_q.weight", "self_attn.q_proj.weight");
pub(super) const KEY: LayerTensorNames = names(L::Key, "attn_k.weight", "self_attn.k_proj.weight");
pub(super) const VALUE: LayerTensorNames = names(L::Value, "attn_v.weight", "self_attn.v_proj.weight");
pub(super) const ATTENTION_OUTPUT: LayerTensorNames =
    names(L::AttentionOutput, "attn_output.weight", "self_attn.o_proj.weight");
pub(super) const QUERY_NORM: LayerTensorNames =
    names(L::QueryNorm, "attn_q_norm.weight", "self_attn.q_norm.weight");
pub(super) const KEY_NORM: LayerTensorNames =
    names(L::KeyNorm, "attn_k_norm.weight", "self_attn.k_norm.weight");
/// The published name says where the norm stands, not what it feeds: the feed-forward block.
pub(super) const FEED_FORWARD_NORM: LayerTensorNames =
    names(L::FeedForwardNorm, "ffn_norm.weight", "post_attention_layernorm.weight");
pub(super) const GATE: LayerTensorNames = names(L::Gate, "ffn_gate.weight", "mlp.gate_proj.weight");
pub(super) const UP: LayerTensorNames = names(L::Up, "ffn_up.weight", "mlp.up_proj.weight");
pub(super) const DOWN: LayerTensorNames = names(L::Down, "ffn_down.weight", "mlp.down_proj.weight");

/// Reads a GGUF file; `divisors` are the frequency divisors of its `rope_freqs.weight`, where it has one.
pub(super) fn from_gguf(
    settings: &GgufSettings<'_>,
    family: Family,
    pairing: RopePairing,
    divisors: Option<Vec<f32>>,
) -> Result<Description, DescriptionError> {
    let base = settings.base()?;
    let theta = settings.optional("rope.freq_base")?.unwrap_or(DEFAULT_THETA);
    let scaling = match (scaling_from_gguf(settings)?, divisors) {
        (scaling, None) => scaling,
        (RopeScaling::None, Some(divisors)) => RopeScaling::Divisors(divisors),
        (_, Some(_)) => {
            let problem = "scales frequencies that rope_freqs.weight scales too, which is not supported";
            return Err(DescriptionError::new(settings.label("rope.scaling.factor"), problem));
        }
    };
    let head_size = base.layers.first().map_or(0, |layer| layer.head_size);
    let dimension = settings.optional("rope.dimension_count")?.unwrap_or(head_size);
    let GgufBase { name, hidden_size, vocabulary_size, context_length, norm_epsilon, layers } = base;
    let layers = layers
        .into_iter()
        .map(|layer| Layer {
            mixer: Mixer::Attention(Attention::plain(layer.heads, layer.key_value_heads, layer.head_size)),
            feed_forward: FeedForward::dense(layer.feed_forward_size),
        })
        .collect();
    let architecture = Architecture {
        family,
        name,
        hidden_size,
        vocabulary_size,
        context_length,
        norm_epsilon,
        embedding_scale: 1.0,
        activation: Activation::Silu,
        final_logit_softcap: None,
        attention_logit_softcap: None,
        rope: vec![Rope { theta, dimension, pairing, scaling }],
        per_layer_input: None,
        layers,
        draft: None,
        wants_fp8_cache: false,
    };
    Ok(Description { architecture, head: Head::IfPresent, conventions: Conventions::default() })
}

/// Reads a `config.json`.
pub(super) fn from_config(config: &Config<'_>, family: Family) -> Result<Description, DescriptionError> {
    config.expect_text("hidden_act", "silu")?;
    config.refuse_windowed_layers()?;
    let base = config.base(ConfigDefaults::default())?;
    let (theta, scaling) = config.rope(DEFAULT_THETA)?;
    let layer = Layer {
        mixer: Mixer::Attention(Attention::plain(base.heads, base.key_value_heads, base.head_size)),
        feed_forward: FeedForward::dense(config.text.required_size("intermediate_size")?),
    };
    let architecture = Architecture {
        family,
        name: String::new(),
        hidden_size: base.hidden_size,
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        norm_epsilon: base.norm_epsilon,
        embedding_scale: 1.0,
        activation: Activation::Silu,
        final_logit_softcap: None,
        attention_logit_softcap: None,
        rope: vec![Rope { theta, dimension: base.head_size, pairing: RopePairing::Halves, scaling }],
        per_layer_input: None,
        layers: vec![layer; base.layers],
        draft: None,
        wants_fp8_cache: false,
    };
    let head = if config.tied(false)? { Head::Tied } else { Head::Own };
    Ok(Description { architecture, head, conventions: Conventions::default() })
}
