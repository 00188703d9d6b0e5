//! Gemma 4, text: layers of two kinds with heads of their own sizes, keys and values that later layers share, inputs of
//! their own for each layer in the small models, experts beside the dense block in one.

use super::{
    super::{
        Activation, Architecture, Attention, Conventions, Description, DescriptionError, Experts, Family,
        FamilyDescription, FeedForward, Head, Layer, LayerTensor as L, Mixer, Rope, RopePairing,
        config::{Config, ConfigBase, ConfigDefaults, Object},
        names::ExpertNames,
        rope::RopeScaling,
        tensor_table::names,
    },
    plain::{ATTENTION_NORM, ATTENTION_OUTPUT, DOWN, GATE, KEY, KEY_NORM, QUERY, QUERY_NORM, UP, VALUE},
};

pub(in super::super) const GEMMA4: FamilyDescription = FamilyDescription {
    family: Family::Gemma4,
    gguf_name: "gemma4",
    model_types: &["gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"],
    classes: &[
        "Gemma4ForConditionalGeneration",
        "Gemma4ForCausalLM",
        "Gemma4UnifiedForConditionalGeneration",
        "Gemma4UnifiedForCausalLM",
    ],
    layer_tensors: &[
        ATTENTION_NORM,
        QUERY,
        KEY,
        VALUE,
        ATTENTION_OUTPUT,
        QUERY_NORM,
        KEY_NORM,
        names(L::PostAttentionNorm, "post_attention_norm.weight", "post_attention_layernorm.weight"),
        names(L::FeedForwardNorm, "ffn_norm.weight", "pre_feedforward_layernorm.weight"),
        GATE,
        UP,
        DOWN,
        names(L::PostFeedForwardNorm, "post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        names(L::LayerScale, "layer_output_scale.weight", "layer_scalar"),
        names(L::PerLayerGate, "inp_gate.weight", "per_layer_input_gate.weight"),
        names(L::PerLayerOutput, "proj.weight", "per_layer_projection.weight"),
        names(L::PostPerLayerNorm, "post_norm.weight", "post_per_layer_input_norm.weight"),
        names(L::Router, "ffn_gate_inp.weight", "router.proj.weight"),
        names(L::RouterScale, "ffn_gate_inp.scale", "router.scale"),
        names(L::ExpertScale, "ffn_down_exps.scale", "router.per_expert_scale"),
        names(L::PostDenseNorm, "post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"),
        names(L::PostExpertsNorm, "post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"),
        names(L::ExpertsNorm, "pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"),
    ],
    experts: Some(ExpertNames { published: "experts" }),
    other_gguf_tensors: &[super::gemma4_gguf::FREQUENCY_DIVISORS],
    from_gguf: super::gemma4_gguf::from_gguf,
    from_config,
};

/// Indices into [`Architecture::rope`].
pub(super) const GLOBAL: usize = 0;
pub(super) const LOCAL: usize = 1;

/// What the configuration class fills in where a file says nothing.
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    heads: Some(8),
    key_value_heads: Some(4),
    head_size: Some(256),
    vocabulary_size: Some(262_144),
    context_length: Some(131_072),
};
const DEFAULT_GLOBAL_HEAD_SIZE: usize = 512;

/// What differs from layer to layer.
pub(super) struct Kind {
    pub(super) sliding: bool,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    pub(super) head_size: usize,
    pub(super) feed_forward_size: usize,
    pub(super) values_are_keys: bool,
}

/// The layers of a model, whichever file describes them. The last `shared` layers read the keys and values of the last
/// layer before them that is of their kind.
pub(super) fn layers(
    kinds: &[Kind],
    window: Option<usize>,
    shared: usize,
    experts: Option<&Experts>,
) -> Result<Vec<Layer>, DescriptionError> {
    let wrong =
        |problem: &str| DescriptionError::new("the number of layers that share keys and values", problem);
    let own = kinds.len().checked_sub(shared).ok_or_else(|| wrong("is larger than that of all layers"))?;
    let layer = |(index, kind): (usize, &Kind)| {
        let shares = if index < own {
            None
        } else {
            let source = kinds[..own].iter().rposition(|source| source.sliding == kind.sliding);
            Some(source.ok_or_else(|| wrong("leaves a layer without one of its kind to share with"))?)
        };
        Ok(Layer {
            mixer: Mixer::Attention(Attention {
                window: window.filter(|_| kind.sliding),
                rope: if kind.sliding { LOCAL } else { GLOBAL },
                // The norms of queries and keys carry the scale.
                scale: 1.0,
                values_are_keys: kind.values_are_keys,
                values_normed: true,
                shares,
                ..Attention::plain(kind.heads, kind.key_value_heads, kind.head_size)
            }),
            feed_forward: FeedForward { size: kind.feed_forward_size, experts: experts.cloned() },
        })
    };
    kinds.iter().enumerate().map(layer).collect()
}

fn from_config(config: &Config<'_>) -> Result<Description, DescriptionError> {
    config.expect_text("hidden_activation", "gelu_pytorch_tanh")?;
    config.expect_text("use_bidirectional_attention", "vision")?;
    config.refuse_flag("attention_bias")?;
    let text = &config.text;
    let base = config.base(DEFAULTS)?;
    let kinds = kinds(config, &base)?;
    let window = text.size("sliding_window")?;
    if window.is_none() && kinds.iter().any(|kind| kind.sliding) {
        return Err(DescriptionError::new(text.label("sliding_window"), "is missing"));
    }
    let shared = text.size("num_kv_shared_layers")?.unwrap_or(0);
    let experts = experts(text)?;
    let architecture = Architecture {
        family: Family::Gemma4,
        name: String::new(),
        hidden_size: base.hidden_size,
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        norm_epsilon: base.norm_epsilon,
        embedding_scale: (base.hidden_size as f64).sqrt() as f32,
        activation: Activation::GeluTanh,
        final_logit_softcap: text.number("final_logit_softcapping")?.map(|cap| cap as f32),
        attention_logit_softcap: text.number("attn_logit_softcapping")?.map(|cap| cap as f32),
        rope: ropes(config, &kinds)?,
        per_layer_input: per_layer_input(text, &base)?,
        layers: layers(&kinds, window, shared, experts.as_ref())?,
        draft: None,
        wants_fp8_cache: false,
    };
    let head = if config.tied(true)? { Head::Tied } else { Head::Own };
    Ok(Description { architecture, head, conventions: Conventions::default() })
}

/// The kind of each layer. Newer files list what differs by layer or by type of layer instead of naming it.
fn kinds(config: &Config<'_>, base: &ConfigBase) -> Result<Vec<Kind>, DescriptionError> {
    let text = &config.text;
    let feed_forward_size = text.required_size("intermediate_size")?;
    let double = text.flag("use_double_wide_mlp")?.unwrap_or(false);
    let shared = text.size("num_kv_shared_layers")?.unwrap_or(0);
    let keys_are_values = text.flag("attention_k_eq_v")?.unwrap_or(false);
    let global_heads = text.size("num_global_key_value_heads")?.filter(|_| keys_are_values);
    let global_size = text.size("global_head_dim")?.unwrap_or(DEFAULT_GLOBAL_HEAD_SIZE);
    let exceptions = text.object("per_layer_config")?;
    let types = config.layer_types(base.layers, &["sliding_attention", "full_attention"])?;
    let kind = |(index, layer_type): (usize, &str)| {
        let sliding = layer_type == "sliding_attention";
        let mut kind = Kind {
            sliding,
            heads: base.heads,
            key_value_heads: global_heads.filter(|_| !sliding).unwrap_or(base.key_value_heads),
            head_size: if sliding { base.head_size } else { global_size },
            feed_forward_size: feed_forward_size
                * if double && index + shared >= base.layers { 2 } else { 1 },
            values_are_keys: keys_are_values && !sliding,
        };
        for key in [layer_type.to_owned(), index.to_string()] {
            let Some(exception) = exceptions.as_ref().map(|all| all.object(&key)).transpose()?.flatten()
            else {
                continue;
            };
            kind.head_size = exception.size("head_dim")?.unwrap_or(kind.head_size);
            kind.key_value_heads = exception.size("num_key_value_heads")?.unwrap_or(kind.key_value_heads);
        }
        Ok(kind)
    };
    types.into_iter().enumerate().map(kind).collect()
}

fn experts(text: &Object<'_>) -> Result<Option<Experts>, DescriptionError> {
    if !text.flag("enable_moe_block")?.unwrap_or(false) {
        return Ok(None);
    }
    let size = match text.size("moe_intermediate_size")? {
        Some(size) => size,
        None => text.required_size("expert_intermediate_size")?,
    };
    let (count, used) = (text.required_size("num_experts")?, text.required_size("top_k_experts")?);
    Ok(Some(Experts { count, used, size }))
}

fn per_layer_input(text: &Object<'_>, base: &ConfigBase) -> Result<Option<usize>, DescriptionError> {
    let width = text.size("hidden_size_per_layer_input")?.filter(|width| *width > 0);
    let rows = text.size("vocab_size_per_layer_input")?.unwrap_or(base.vocabulary_size);
    if width.is_some() && rows != base.vocabulary_size {
        let problem = format!("is {rows}, but the vocabulary has {}", base.vocabulary_size);
        return Err(DescriptionError::new(text.label("vocab_size_per_layer_input"), problem));
    }
    Ok(width)
}

/// The encodings of global and of sliding layers. On global ones the slow pairs do not turn at all, and the frequencies
/// of the others are those of the whole head.
fn ropes(config: &Config<'_>, kinds: &[Kind]) -> Result<Vec<Rope>, DescriptionError> {
    let parameters = config.rope_object()?;
    let one = |key: &str, sliding: bool, theta: f64| {
        let kind = kinds.iter().find(|kind| kind.sliding == sliding);
        let dimension = kind.map_or(2, |kind| kind.head_size);
        let object = parameters.as_ref().map(|all| all.object(key)).transpose()?.flatten();
        let (theta, scaling) = match object {
            Some(object) => proportional(&object, dimension, theta)?,
            None => (theta, RopeScaling::None),
        };
        Ok::<_, DescriptionError>(Rope { theta, dimension, pairing: RopePairing::Halves, scaling })
    };
    Ok(vec![one("full_attention", false, 1e6)?, one("sliding_attention", true, 1e4)?])
}

fn proportional(
    object: &Object<'_>,
    dimension: usize,
    default_theta: f64,
) -> Result<(f64, RopeScaling), DescriptionError> {
    let theta = object.number("rope_theta")?.unwrap_or(default_theta);
    let part = object.number("partial_rotary_factor")?.unwrap_or(1.0);
    let scaling = match object.text("rope_type")? {
        Some("proportional") if (0.0..=1.0).contains(&part) => {
            RopeScaling::Proportional { pairs: (part * dimension as f64 / 2.0).floor() as usize }
        }
        None | Some("default") if part == 1.0 => RopeScaling::None,
        other => {
            let problem = format!("is {other:?} with the part {part}, which is not supported in this family");
            return Err(DescriptionError::new(object.label("rope_type"), problem));
        }
    };
    match object.number("factor")? {
        None | Some(1.0) => Ok((theta, scaling)),
        Some(factor) => {
            let problem = format!("is {factor}, which is not supported in this family");
            Err(DescriptionError::new(object.label("factor"), problem))
        }
    }
}
