//! Gemma 3, text: norms before and after each branch, a norm on every query and key head, and two position encodings
//! by turns: layers with a sliding window, and every so often one that sees everything.

use super::{
    super::{
        Activation, Architecture, Attention, Conventions, Description, DescriptionError, Family,
        FamilyDescription, FeedForward, Head, Layer, LayerTensor as L, Mixer, Rope, RopePairing,
        config::{Config, ConfigDefaults},
        gguf_settings::GgufSettings,
        inverse_root,
        rope::{self, RopeScaling, scaling_from_gguf},
        tensor_table::names,
    },
    plain::{ATTENTION_NORM, ATTENTION_OUTPUT, DOWN, GATE, KEY, KEY_NORM, QUERY, QUERY_NORM, UP, VALUE},
};
use crate::gguf::Value;

pub(in super::super) const GEMMA3: FamilyDescription = FamilyDescription {
    family: Family::Gemma3,
    gguf_name: "gemma3",
    model_types: &["gemma3_text", "gemma3"],
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
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
    ],
    experts: None,
    other_gguf_tensors: &[],
    from_gguf,
    from_config,
};

/// Indices into [`Architecture::rope`].
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

const DEFAULT_GLOBAL_THETA: f64 = 1e6;
const DEFAULT_LOCAL_THETA: f64 = 1e4;
const DEFAULT_PATTERN: usize = 6;
const DEFAULT_QUERY_SCALAR: f64 = 256.0;
const DEFAULTS: ConfigDefaults = ConfigDefaults {
    heads: Some(8),
    key_value_heads: Some(4),
    head_size: Some(256),
    vocabulary_size: Some(262_208),
    context_length: Some(131_072),
};
/// The layers of the 27B model, whose GGUF files do not say that its attention scale is another than usual.
const LAYERS_27B: usize = 62;

/// The layers that slide, from a period: every `pattern`-th layer is global.
fn sliding_by_period(pattern: usize, layers: usize, setting: String) -> Result<Vec<bool>, DescriptionError> {
    if pattern == 0 {
        return Err(DescriptionError::new(setting, "is 0, but must be at least 1"));
    }
    Ok((1..=layers).map(|number| !number.is_multiple_of(pattern)).collect())
}

fn from_gguf(settings: &GgufSettings<'_>) -> Result<Description, DescriptionError> {
    let base = settings.base()?;
    let count = base.layers.len();
    let head_size = base.layers.first().map_or(0, |layer| layer.head_size);
    let heads = base.layers.first().map_or(1, |layer| layer.heads);
    let window = settings.required("attention.sliding_window")?;
    let sliding = gguf_pattern(settings, count)?;
    let attention_scale = match settings.optional("attention.scale")? {
        Some(scale) => scale,
        None if count == LAYERS_27B => inverse_root(base.hidden_size as f64 / heads.max(1) as f64),
        None => inverse_root(head_size as f64),
    };
    let dimension = settings.optional("rope.dimension_count")?.unwrap_or(head_size);
    let rope = |theta, scaling| Rope { theta, dimension, pairing: RopePairing::Halves, scaling };
    let global = rope(
        settings.optional("rope.freq_base")?.unwrap_or(DEFAULT_GLOBAL_THETA),
        scaling_from_gguf(settings)?,
    );
    let local =
        rope(settings.optional("rope.freq_base_swa")?.unwrap_or(DEFAULT_LOCAL_THETA), RopeScaling::None);
    let layers = base.layers.iter().zip(&sliding).map(|(layer, &sliding)| Layer {
        mixer: Mixer::Attention(Attention {
            window: sliding.then_some(window),
            rope: if sliding { LOCAL } else { GLOBAL },
            scale: attention_scale,
            ..Attention::plain(layer.heads, layer.key_value_heads, layer.head_size)
        }),
        feed_forward: FeedForward::dense(layer.feed_forward_size),
    });
    let architecture = Architecture {
        family: Family::Gemma3,
        hidden_size: base.hidden_size,
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        norm_epsilon: base.norm_epsilon,
        embedding_scale: (base.hidden_size as f64).sqrt() as f32,
        activation: Activation::GeluTanh,
        final_logit_softcap: settings.optional("final_logit_softcapping")?,
        attention_logit_softcap: settings.optional("attn_logit_softcapping")?,
        rope: vec![global, local],
        per_layer_input: None,
        layers: layers.collect(),
        draft: None,
        wants_fp8_cache: false,
        name: base.name,
    };
    // Converters have added the 1 to the norms already.
    Ok(Description { architecture, head: Head::IfPresent, conventions: Conventions::default() })
}

/// The pattern key holds a flag per layer or a period; older files have none and mean the usual period.
fn gguf_pattern(settings: &GgufSettings<'_>, layers: usize) -> Result<Vec<bool>, DescriptionError> {
    const KEY: &str = "attention.sliding_window_pattern";
    if let Some(Value::Array(_)) = settings.optional::<Value<'_>>(KEY)? {
        let flags: Vec<bool> = settings.required(KEY)?;
        if flags.len() != layers {
            let problem = format!("has {} values for {layers} layers", flags.len());
            return Err(DescriptionError::new(settings.label(KEY), problem));
        }
        return Ok(flags);
    }
    let pattern = settings.optional(KEY)?.unwrap_or(DEFAULT_PATTERN);
    sliding_by_period(pattern, layers, settings.label(KEY))
}

fn from_config(config: &Config<'_>) -> Result<Description, DescriptionError> {
    config.expect_text("hidden_activation", "gelu_pytorch_tanh")?;
    config.expect_text("hidden_act", "gelu_pytorch_tanh")?;
    for flag in ["attention_bias", "use_bidirectional_attention"] {
        config.refuse_flag(flag)?;
    }
    let text = &config.text;
    let base = config.base(DEFAULTS)?;
    let sliding = config_pattern(config, base.layers)?;
    let window = text.size("sliding_window")?;
    if window.is_none() && sliding.contains(&true) {
        return Err(DescriptionError::new(text.label("sliding_window"), "is missing"));
    }
    let scalar = text.number("query_pre_attn_scalar")?.unwrap_or(DEFAULT_QUERY_SCALAR);
    let feed_forward_size = text.required_size("intermediate_size")?;
    let layers = sliding.into_iter().map(|sliding| Layer {
        mixer: Mixer::Attention(Attention {
            window: window.filter(|_| sliding),
            rope: if sliding { LOCAL } else { GLOBAL },
            scale: inverse_root(scalar),
            ..Attention::plain(base.heads, base.key_value_heads, base.head_size)
        }),
        feed_forward: FeedForward::dense(feed_forward_size),
    });
    let cap = |key: &str| Ok::<_, DescriptionError>(text.number(key)?.map(|cap| cap as f32));
    let architecture = Architecture {
        family: Family::Gemma3,
        name: String::new(),
        hidden_size: base.hidden_size,
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        norm_epsilon: base.norm_epsilon,
        embedding_scale: (base.hidden_size as f64).sqrt() as f32,
        activation: Activation::GeluTanh,
        final_logit_softcap: cap("final_logit_softcapping")?,
        attention_logit_softcap: cap("attn_logit_softcapping")?,
        rope: config_ropes(config, base.head_size)?,
        per_layer_input: None,
        layers: layers.collect(),
        draft: None,
        wants_fp8_cache: false,
    };
    let head = if config.tied(true)? { Head::Tied } else { Head::Own };
    // Published norms are centred on zero: the factor is 1 + w.
    let conventions = Conventions { norm_offset: 1.0, ..Conventions::default() };
    Ok(Description { architecture, head, conventions })
}

/// Which layers slide: an explicit list, else a period under one of its two names.
fn config_pattern(config: &Config<'_>, layers: usize) -> Result<Vec<bool>, DescriptionError> {
    let text = &config.text;
    if text.texts("layer_types")?.is_some() {
        let types = config.layer_types(layers, &["sliding_attention", "full_attention"])?;
        return Ok(types.into_iter().map(|kind| kind == "sliding_attention").collect());
    }
    for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
        if let Some(pattern) = text.size(key)? {
            return sliding_by_period(pattern, layers, text.label(key));
        }
    }
    sliding_by_period(DEFAULT_PATTERN, layers, text.label("sliding_window_pattern"))
}

/// The two position encodings. Newer files have an object per layer type; in older ones the object scales the global
/// layers only, and the thetas stand beside it.
fn config_ropes(config: &Config<'_>, head_size: usize) -> Result<Vec<Rope>, DescriptionError> {
    let text = &config.text;
    let rope = |theta, scaling| Rope { theta, dimension: head_size, pairing: RopePairing::Halves, scaling };
    let local_theta = text.number("rope_local_base_freq")?.unwrap_or(DEFAULT_LOCAL_THETA);
    if let Some(object) = config.rope_object()?
        && object.keys().any(|key| key == "full_attention" || key == "sliding_attention")
    {
        let part = |key: &str, default: f64| match object.object(key)? {
            Some(part) => {
                let (theta, scaling) = rope::from_object(&part)?;
                Ok::<_, DescriptionError>(rope(theta.unwrap_or(default), scaling))
            }
            None => Ok(rope(default, RopeScaling::None)),
        };
        if let Some(other) = object.keys().find(|key| !["full_attention", "sliding_attention"].contains(key))
        {
            return Err(DescriptionError::new(object.label(other), "is not supported"));
        }
        let global_theta = text.number("rope_theta")?.unwrap_or(DEFAULT_GLOBAL_THETA);
        return Ok(vec![part("full_attention", global_theta)?, part("sliding_attention", local_theta)?]);
    }
    let (theta, scaling) = config.rope(DEFAULT_GLOBAL_THETA)?;
    Ok(vec![rope(theta, scaling), rope(local_theta, RopeScaling::None)])
}
