//! Llama 2 and 3, and SmolLM2, which is a Llama with a tied head.

use nearfield_kernels::dequantize_row;

use super::{
    super::{
        Description, DescriptionError, Family, FamilyDescription, RopePairing, config::Config,
        gguf_settings::GgufSettings,
    },
    plain::{self, ATTENTION_NORM, ATTENTION_OUTPUT, DOWN, FEED_FORWARD_NORM, GATE, KEY, QUERY, UP, VALUE},
};
use crate::gguf::Gguf;

pub(in super::super) const LLAMA: FamilyDescription = FamilyDescription {
    family: Family::Llama,
    gguf_name: "llama",
    model_types: &["llama"],
    classes: &["LlamaForCausalLM"],
    layer_tensors: &[ATTENTION_NORM, QUERY, KEY, VALUE, ATTENTION_OUTPUT, FEED_FORWARD_NORM, GATE, UP, DOWN],
    experts: None,
    other_gguf_tensors: &[FREQUENCY_DIVISORS],
    from_gguf,
    from_config,
};

/// Llama 3's scaling as converters store it: a divisor for each frequency.
const FREQUENCY_DIVISORS: &str = "rope_freqs.weight";

/// Converters permute the rows of queries and keys in this family, so that pairs are adjacent.
fn from_gguf(settings: &GgufSettings<'_>) -> Result<Description, DescriptionError> {
    let divisors = frequency_divisors(settings.file())?;
    plain::from_gguf(settings, Family::Llama, RopePairing::Adjacent, divisors)
}

fn frequency_divisors(file: &Gguf) -> Result<Option<Vec<f32>>, DescriptionError> {
    /// Half of the largest head that anyone has published, with room to spare.
    const LIMIT: usize = 1 << 16;
    let Some(tensor) = file.tensor(FREQUENCY_DIVISORS) else { return Ok(None) };
    if tensor.rows() != 1 || tensor.columns() > LIMIT {
        let problem =
            format!("has the dimensions {:?}, but one divisor per frequency is needed", tensor.dimensions);
        return Err(DescriptionError::new(FREQUENCY_DIVISORS, problem));
    }
    let mut divisors = vec![0.0; tensor.columns()];
    dequantize_row(tensor.format, file.bytes(tensor), &mut divisors);
    Ok(Some(divisors))
}

fn from_config(config: &Config<'_>) -> Result<Description, DescriptionError> {
    for flag in ["attention_bias", "mlp_bias", "rope_interleaved"] {
        config.refuse_flag(flag)?;
    }
    if config.text.size("sliding_window")?.is_some() {
        let problem = "is set, which is not supported in this family";
        return Err(DescriptionError::new(config.text.label("sliding_window"), problem));
    }
    plain::from_config(config, Family::Llama)
}
