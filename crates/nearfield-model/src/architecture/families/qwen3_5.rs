//! Qwen3.5 and Qwen3.6, dense and with experts: gated delta networks, every so often a layer of gated attention, and a
//! head that foretells one token more.

use super::{
    super::{
        Activation, Architecture, Attention, Conventions, DeltaNet, Description, DescriptionError, Experts,
        Family, FamilyDescription, FeedForward, Head, Layer, LayerTensor as L, Mixer, Rope, RopePairing,
        config::{Config, ConfigBase, ConfigDefaults},
        gguf_settings::{GgufLayer, GgufSettings},
        names::ExpertNames,
        rope::RopeScaling,
        tensor_table::{LayerTensorNames, names},
    },
    plain::{ATTENTION_NORM, ATTENTION_OUTPUT, DOWN, GATE, KEY, KEY_NORM, QUERY, QUERY_NORM, UP, VALUE},
};

/// The published name says where the norm stands, not what it feeds: the feed-forward block.
const FEED_FORWARD_NORM: LayerTensorNames =
    names(L::FeedForwardNorm, "post_attention_norm.weight", "post_attention_layernorm.weight");
const DELTA_INPUT: LayerTensorNames =
    names(L::DeltaInput, "attn_qkv.weight", "linear_attn.in_proj_qkv.weight");
const DELTA_GATE: LayerTensorNames = names(L::DeltaGate, "attn_gate.weight", "linear_attn.in_proj_z.weight");
const DELTA_STRENGTH: LayerTensorNames =
    names(L::DeltaStrength, "ssm_beta.weight", "linear_attn.in_proj_b.weight");
const DELTA_DECAY: LayerTensorNames =
    names(L::DeltaDecay, "ssm_alpha.weight", "linear_attn.in_proj_a.weight");
const DELTA_DECAY_BIAS: LayerTensorNames = names(L::DeltaDecayBias, "ssm_dt.bias", "linear_attn.dt_bias");
const DELTA_DECAY_RATE: LayerTensorNames = names(L::DeltaDecayRate, "ssm_a", "linear_attn.A_log");
const DELTA_CONVOLUTION: LayerTensorNames =
    names(L::DeltaConvolution, "ssm_conv1d.weight", "linear_attn.conv1d.weight");
const DELTA_NORM: LayerTensorNames = names(L::DeltaNorm, "ssm_norm.weight", "linear_attn.norm.weight");
const DELTA_OUTPUT: LayerTensorNames = names(L::DeltaOutput, "ssm_out.weight", "linear_attn.out_proj.weight");

/// What comes before the feed-forward block, in both families.
const BEFORE: [LayerTensorNames; 17] = [
    ATTENTION_NORM,
    QUERY,
    KEY,
    VALUE,
    ATTENTION_OUTPUT,
    QUERY_NORM,
    KEY_NORM,
    DELTA_INPUT,
    DELTA_GATE,
    DELTA_STRENGTH,
    DELTA_DECAY,
    DELTA_DECAY_BIAS,
    DELTA_DECAY_RATE,
    DELTA_CONVOLUTION,
    DELTA_NORM,
    DELTA_OUTPUT,
    FEED_FORWARD_NORM,
];

/// [`BEFORE`] with more behind it.
const fn table<const N: usize>(after: &[LayerTensorNames]) -> [LayerTensorNames; N] {
    let mut all = [ATTENTION_NORM; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < BEFORE.len() { BEFORE[i] } else { after[i - BEFORE.len()] };
        i += 1;
    }
    all
}

pub(in super::super) const QWEN3_5: FamilyDescription = FamilyDescription {
    family: Family::Qwen35,
    gguf_name: "qwen35",
    model_types: &["qwen3_5", "qwen3_5_text"],
    classes: &["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
    layer_tensors: &table::<20>(&[GATE, UP, DOWN]),
    experts: None,
    other_gguf_tensors: &[],
    from_gguf: |settings| from_gguf(settings, Family::Qwen35),
    from_config: |config| from_config(config, Family::Qwen35),
};

pub(in super::super) const QWEN3_5_MOE: FamilyDescription = FamilyDescription {
    family: Family::Qwen35Moe,
    gguf_name: "qwen35moe",
    model_types: &["qwen3_5_moe", "qwen3_5_moe_text"],
    classes: &["Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"],
    layer_tensors: &table::<22>(&[
        names(L::Gate, "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"),
        names(L::Up, "ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"),
        names(L::Down, "ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"),
        names(L::SharedGate, "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"),
        names(L::Router, "ffn_gate_inp.weight", "mlp.gate.weight"),
    ]),
    experts: Some(ExpertNames { published: "mlp.experts" }),
    other_gguf_tensors: &[],
    from_gguf: |settings| from_gguf(settings, Family::Qwen35Moe),
    from_config: |config| from_config(config, Family::Qwen35Moe),
};

const DEFAULTS: ConfigDefaults = ConfigDefaults {
    heads: None,
    key_value_heads: None,
    head_size: Some(256),
    vocabulary_size: Some(248_320),
    context_length: Some(32_768),
};
const DEFAULT_THETA: f64 = 1e7;
const DEFAULT_INTERVAL: usize = 4;

/// What the two kinds of layers are made of.
struct Parts {
    attention: Attention,
    delta: DeltaNet,
    feed_forward: FeedForward,
}

impl Parts {
    fn layer(&self, full: bool) -> Layer {
        let mixer =
            if full { Mixer::Attention(self.attention.clone()) } else { Mixer::DeltaNet(self.delta.clone()) };
        Layer { mixer, feed_forward: self.feed_forward.clone() }
    }
}

fn gated(heads: usize, key_value_heads: usize, head_size: usize) -> Attention {
    Attention { gated: true, ..Attention::plain(heads, key_value_heads, head_size) }
}

fn from_config(config: &Config<'_>, family: Family) -> Result<Description, DescriptionError> {
    config.expect_text("hidden_act", "silu")?;
    config.expect_text("output_gate_type", "swish")?;
    config.refuse_flag("attention_bias")?;
    config.refuse_flag("mtp_use_dedicated_embeddings")?;
    let text = &config.text;
    if text.flag("attn_output_gate")? == Some(false) {
        return Err(DescriptionError::new(
            text.label("attn_output_gate"),
            "is false, which is not supported",
        ));
    }
    let base = config.base(DEFAULTS)?;
    let parts = Parts {
        attention: gated(base.heads, base.key_value_heads, base.head_size),
        delta: DeltaNet {
            key_heads: text.required_size("linear_num_key_heads")?,
            value_heads: text.required_size("linear_num_value_heads")?,
            key_size: text.required_size("linear_key_head_dim")?,
            value_size: text.required_size("linear_value_head_dim")?,
            kernel: text.size("linear_conv_kernel_dim")?.unwrap_or(4),
            tiled: false,
        },
        feed_forward: feed_forward(config, family)?,
    };
    let full = full_layers(config, &base)?;
    let draft = match text.size("mtp_num_hidden_layers")?.unwrap_or(0) {
        0 => None,
        1 => Some(parts.layer(true)),
        more => {
            let problem = format!("is {more}; draft heads of one layer are supported");
            return Err(DescriptionError::new(text.label("mtp_num_hidden_layers"), problem));
        }
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
        rope: vec![rope(config, base.head_size)?],
        per_layer_input: None,
        layers: full.into_iter().map(|full| parts.layer(full)).collect(),
        draft,
        wants_fp8_cache: false,
    };
    let head = if config.tied(false)? { Head::Tied } else { Head::Own };
    // Norms are centred on zero: the factor is 1 + w. That inside the delta network is not.
    let conventions = Conventions { norm_offset: 1.0, decay_logarithm: true };
    Ok(Description { architecture, head, conventions })
}

fn feed_forward(config: &Config<'_>, family: Family) -> Result<FeedForward, DescriptionError> {
    let text = &config.text;
    if family == Family::Qwen35 {
        return Ok(FeedForward::dense(text.required_size("intermediate_size")?));
    }
    let experts = Experts {
        count: text.required_size("num_experts")?,
        used: text.required_size("num_experts_per_tok")?,
        size: text.required_size("moe_intermediate_size")?,
    };
    if text.flag("norm_topk_prob")? == Some(false) {
        return Err(DescriptionError::new(text.label("norm_topk_prob"), "is false, which is not supported"));
    }
    let size = text.required_size("shared_expert_intermediate_size")?;
    Ok(FeedForward { size, experts: Some(experts) })
}

/// Which layers have attention: an explicit list, else one in every few.
fn full_layers(config: &Config<'_>, base: &ConfigBase) -> Result<Vec<bool>, DescriptionError> {
    let text = &config.text;
    if text.texts("layer_types")?.is_some() {
        let types = config.layer_types(base.layers, &["linear_attention", "full_attention"])?;
        return Ok(types.into_iter().map(|kind| kind == "full_attention").collect());
    }
    let interval = text.size("full_attention_interval")?.unwrap_or(DEFAULT_INTERVAL);
    every(interval, base.layers, text.label("full_attention_interval"))
}

fn every(interval: usize, layers: usize, setting: String) -> Result<Vec<bool>, DescriptionError> {
    if interval == 0 {
        return Err(DescriptionError::new(setting, "is 0, but must be at least 1"));
    }
    Ok((1..=layers).map(|number| number.is_multiple_of(interval)).collect())
}

/// A part of each head turns. The sections of images' positions are the same for text.
fn rope(config: &Config<'_>, head_size: usize) -> Result<Rope, DescriptionError> {
    let text = &config.text;
    let object = config.rope_object()?;
    let inside =
        |key: &str| object.as_ref().map(|object| object.number(key)).transpose().map(Option::flatten);
    if let Some(object) = &object
        && let Some(kind) = object.text("rope_type")?.or(object.text("type")?)
        && !["default", "mrope"].contains(&kind)
    {
        let problem = format!("is {kind:?}, which is not supported in this family (default is)");
        return Err(DescriptionError::new(object.label("rope_type"), problem));
    }
    let part = inside("partial_rotary_factor")?.or(text.number("partial_rotary_factor")?).unwrap_or(0.25);
    let theta = inside("rope_theta")?.or(text.number("rope_theta")?).unwrap_or(DEFAULT_THETA);
    let dimension = (part * head_size as f64) as usize;
    Ok(Rope { theta, dimension, pairing: RopePairing::Halves, scaling: RopeScaling::None })
}

fn from_gguf(settings: &GgufSettings<'_>, family: Family) -> Result<Description, DescriptionError> {
    let mut base = settings.base_with_experts()?;
    if let Some(value_length) = settings.optional::<usize>("attention.value_length")?
        && base.layers.iter().any(|layer| layer.head_size != value_length)
    {
        let problem = format!("is {value_length}, but must be the length of keys");
        return Err(DescriptionError::new(settings.label("attention.value_length"), problem));
    }
    let drafts: usize = settings.optional("nextn_predict_layers")?.unwrap_or(0);
    if drafts > 1 || drafts >= base.layers.len() {
        let problem = format!("is {drafts}; draft heads of one layer are supported");
        return Err(DescriptionError::new(settings.label("nextn_predict_layers"), problem));
    }
    let trunk = base.layers.len() - drafts;
    let interval = settings.optional("full_attention_interval")?.unwrap_or(DEFAULT_INTERVAL);
    let mut full = every(interval, trunk, settings.label("full_attention_interval"))?;
    full.resize(trunk + drafts, true);
    let delta = delta_from_gguf(settings)?;
    let experts = match family {
        Family::Qwen35Moe => Some(Experts {
            count: settings.required("expert_count")?,
            used: settings.required("expert_used_count")?,
            size: settings.required("expert_feed_forward_length")?,
        }),
        _ => None,
    };
    let shared = settings.optional("expert_shared_feed_forward_length")?;
    let layer = |(layer, full): (&GgufLayer, bool)| {
        let size = shared.filter(|_| experts.is_some()).unwrap_or(layer.feed_forward_size);
        Parts {
            attention: gated(layer.heads, layer.key_value_heads, layer.head_size),
            delta: delta.clone(),
            feed_forward: FeedForward { size, experts: experts.clone() },
        }
        .layer(full)
    };
    let mut layers: Vec<Layer> = base.layers.iter().zip(full).map(layer).collect();
    let draft = if drafts == 1 { layers.pop() } else { None };
    let head_size = base.layers.pop().map_or(0, |layer| layer.head_size);
    // Positions of images in sections; for text they are all the same.
    let _sections: Option<Vec<usize>> = settings.optional("rope.dimension_sections")?;
    let rope = Rope {
        theta: settings.optional("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
        dimension: settings.optional("rope.dimension_count")?.unwrap_or(head_size / 4),
        pairing: RopePairing::Halves,
        scaling: super::super::rope::scaling_from_gguf(settings)?,
    };
    let architecture = Architecture {
        family,
        hidden_size: base.hidden_size,
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        norm_epsilon: base.norm_epsilon,
        embedding_scale: 1.0,
        activation: Activation::Silu,
        final_logit_softcap: None,
        attention_logit_softcap: None,
        rope: vec![rope],
        per_layer_input: None,
        layers,
        draft,
        wants_fp8_cache: false,
        name: base.name,
    };
    // Converters have added the 1 to the norms and formed the negative rates already.
    Ok(Description { architecture, head: Head::IfPresent, conventions: Conventions::default() })
}

/// Converters deal value heads out in turn, so that head `j` reads key head `j % key_heads`.
fn delta_from_gguf(settings: &GgufSettings<'_>) -> Result<DeltaNet, DescriptionError> {
    let value_heads: usize = settings.required("ssm.time_step_rank")?;
    let inner: usize = settings.required("ssm.inner_size")?;
    if inner.checked_rem(value_heads) != Some(0) {
        let problem = format!("is {inner}, which {value_heads} heads do not divide");
        return Err(DescriptionError::new(settings.label("ssm.inner_size"), problem));
    }
    Ok(DeltaNet {
        key_heads: settings.required("ssm.group_count")?,
        value_heads,
        key_size: settings.required("ssm.state_size")?,
        value_size: inner / value_heads,
        kernel: settings.required("ssm.conv_kernel")?,
        tiled: true,
    })
}
