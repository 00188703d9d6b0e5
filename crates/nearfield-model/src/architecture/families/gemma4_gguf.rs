//! Gemma 4 as GGUF describes it.

use nearfield_kernels::dequantize_row;

use super::{
    super::{
        Activation, Architecture, Conventions, Description, DescriptionError, Experts, Family, Head, Rope,
        RopePairing, gguf_settings::GgufSettings, rope::RopeScaling,
    },
    gemma4::{Kind, layers},
};

/// Divisors of the global layers' frequencies: 1 for pairs that turn, a huge number for those that do not.
pub(super) const FREQUENCY_DIVISORS: &str = "rope_freqs.weight";

/// From this divisor on a pair does not turn.
const STILL: f32 = 1e29;

pub(super) fn from_gguf(settings: &GgufSettings<'_>) -> Result<Description, DescriptionError> {
    let base = settings.base_with_experts()?;
    let count = base.layers.len();
    let sliding: Vec<bool> = settings.required("attention.sliding_window_pattern")?;
    if sliding.len() != count {
        let problem = format!("has {} values for {count} layers", sliding.len());
        return Err(DescriptionError::new(settings.label("attention.sliding_window_pattern"), problem));
    }
    let global_size: usize = settings.required("attention.key_length")?;
    let local_size = settings.optional("attention.key_length_swa")?.unwrap_or(global_size);
    for (key, size) in [("attention.value_length", global_size), ("attention.value_length_swa", local_size)] {
        if let Some(found) = settings.optional::<usize>(key)?
            && found != size
        {
            let problem = format!("is {found}, but keys have {size}; they must be equal");
            return Err(DescriptionError::new(settings.label(key), problem));
        }
    }
    let kinds: Vec<Kind> = base
        .layers
        .iter()
        .zip(&sliding)
        .enumerate()
        .map(|(index, (layer, &sliding))| Kind {
            sliding,
            heads: layer.heads,
            key_value_heads: layer.key_value_heads,
            head_size: if sliding { local_size } else { global_size },
            feed_forward_size: layer.feed_forward_size,
            values_are_keys: !sliding
                && settings.file().tensor(&format!("blk.{index}.attn_v.weight")).is_none(),
        })
        .collect();
    let experts = match settings.optional::<usize>("expert_count")? {
        None | Some(0) => None,
        Some(count) => Some(Experts {
            count,
            used: settings.required("expert_used_count")?,
            size: settings.required("expert_feed_forward_length")?,
        }),
    };
    let shared = settings.optional("attention.shared_kv_layers")?.unwrap_or(0);
    let architecture = Architecture {
        family: Family::Gemma4,
        hidden_size: base.hidden_size,
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        norm_epsilon: base.norm_epsilon,
        embedding_scale: (base.hidden_size as f64).sqrt() as f32,
        activation: Activation::GeluTanh,
        final_logit_softcap: settings.optional("final_logit_softcapping")?,
        attention_logit_softcap: settings.optional("attn_logit_softcapping")?,
        rope: ropes(settings, global_size, local_size)?,
        per_layer_input: settings
            .optional::<usize>("embedding_length_per_layer_input")?
            .filter(|width| *width > 0),
        layers: layers(&kinds, settings.optional("attention.sliding_window")?, shared, experts.as_ref())?,
        draft: None,
        wants_fp8_cache: false,
        name: base.name,
    };
    Ok(Description { architecture, head: Head::IfPresent, conventions: Conventions::default() })
}

fn ropes(
    settings: &GgufSettings<'_>,
    global_size: usize,
    local_size: usize,
) -> Result<Vec<Rope>, DescriptionError> {
    let rope = |theta, dimension, scaling| Rope { theta, dimension, pairing: RopePairing::Halves, scaling };
    let global = settings.optional("rope.dimension_count")?.unwrap_or(global_size);
    let local = settings.optional("rope.dimension_count_swa")?.unwrap_or(local_size);
    Ok(vec![
        rope(settings.optional("rope.freq_base")?.unwrap_or(1e6), global, divisors(settings, global)?),
        rope(settings.optional("rope.freq_base_swa")?.unwrap_or(1e4), local, RopeScaling::None),
    ])
}

/// The divisors of the global layers, or how many pairs turn where that is all they say.
fn divisors(settings: &GgufSettings<'_>, dimension: usize) -> Result<RopeScaling, DescriptionError> {
    let file = settings.file();
    let Some(tensor) = file.tensor(FREQUENCY_DIVISORS) else { return Ok(RopeScaling::None) };
    if tensor.rows() != 1 || tensor.columns() != dimension / 2 {
        let problem = format!("has the dimensions {:?}, but {} are needed", tensor.dimensions, dimension / 2);
        return Err(DescriptionError::new(FREQUENCY_DIVISORS, problem));
    }
    let mut divisors = vec![0.0; tensor.columns()];
    dequantize_row(tensor.format, file.bytes(tensor), &mut divisors);
    let pairs = divisors.iter().take_while(|divisor| **divisor == 1.0).count();
    if divisors[pairs..].iter().all(|divisor| *divisor >= STILL) {
        return Ok(RopeScaling::Proportional { pairs });
    }
    Ok(RopeScaling::Divisors(divisors))
}
