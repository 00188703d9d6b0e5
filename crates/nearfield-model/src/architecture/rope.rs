//! Rotary position encoding, as described by both file kinds.

use super::{DescriptionError, config::Object, gguf_settings::GgufSettings};

/// One rotary position encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: pair `i` turns by `theta^(-2i / dimension)` per position before scaling.
    pub theta: f64,
    /// Elements at the front of a head that are rotated; even.
    pub dimension: usize,
    /// Which elements form a pair.
    pub pairing: RopePairing,
    /// How the frequencies are changed for long contexts.
    pub scaling: RopeScaling,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// Element `i` with element `i + dimension / 2`.
    Halves,
    /// Element `2i` with element `2i + 1`: GGUF files of the llama family, whose rows were permuted to suit.
    Adjacent,
}

/// Changes to the frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Every frequency divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// The scheme of Llama 3: with the wavelength `2 pi / f`, frequencies of wavelengths below
    /// `original_context / high_frequency_factor` stay, those above `original_context / low_frequency_factor` are
    /// divided by `factor`, and those between are blended.
    Llama3 {
        /// Divisor of the slow frequencies.
        factor: f32,
        /// Sets the longest blended wavelength.
        low_frequency_factor: f32,
        /// Sets the shortest blended wavelength.
        high_frequency_factor: f32,
        /// Context length before scaling.
        original_context: usize,
    },
    /// One divisor per pair of elements.
    Divisors(Vec<f32>),
    /// Only the first pairs turn, with their own frequencies; the others stand still.
    Proportional {
        /// Pairs that turn.
        pairs: usize,
    },
}

impl Rope {
    pub(super) fn check(&self, head_size: usize) -> Result<(), DescriptionError> {
        let wrong = |setting: &str, problem: String| Err(DescriptionError::new(setting, problem));
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return wrong("the RoPE theta", format!("is {}, but must be a number above 1", self.theta));
        }
        if self.dimension == 0 || self.dimension > head_size || !self.dimension.is_multiple_of(2) {
            let problem =
                format!("is {}, but must be even and at most the head size {head_size}", self.dimension);
            return wrong("the RoPE dimension", problem);
        }
        let positive = |value: f32| value.is_finite() && value > 0.0;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Proportional { pairs } if *pairs <= self.dimension / 2 => Ok(()),
            RopeScaling::Linear { factor } if positive(*factor) => Ok(()),
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context }
                if positive(*factor)
                    && positive(*low_frequency_factor)
                    && high_frequency_factor.is_finite()
                    && high_frequency_factor > low_frequency_factor
                    && *original_context > 0 =>
            {
                Ok(())
            }
            RopeScaling::Divisors(divisors) => {
                if divisors.len() != self.dimension / 2 {
                    let problem = format!("are {}, but {} are needed", divisors.len(), self.dimension / 2);
                    return wrong("the RoPE frequency divisors", problem);
                }
                match divisors.iter().find(|divisor| !positive(**divisor)) {
                    Some(divisor) => wrong("a RoPE frequency divisor", format!("is {divisor}")),
                    None => Ok(()),
                }
            }
            scaling => wrong("the RoPE scaling", format!("makes no sense: {scaling:?}")),
        }
    }
}

/// The theta and scaling in one JSON object of rope parameters. Every key is used or refused.
pub(super) fn from_object(object: &Object<'_>) -> Result<(Option<f64>, RopeScaling), DescriptionError> {
    const KNOWN: [&str; 8] = [
        "rope_theta",
        "rope_type",
        "type",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
        "partial_rotary_factor",
    ];
    if let Some(unknown) = object.keys().find(|key| !KNOWN.contains(key)) {
        return Err(DescriptionError::new(object.label(unknown), "is not supported"));
    }
    if let Some(part) = object.number("partial_rotary_factor")?
        && part != 1.0
    {
        let problem = format!("is {part}; only heads that are rotated whole are supported");
        return Err(DescriptionError::new(object.label("partial_rotary_factor"), problem));
    }
    let theta = object.number("rope_theta")?;
    let (new, old) = (object.text("rope_type")?, object.text("type")?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        let problem = format!("is {new:?}, but \"type\" beside it is {old:?}");
        return Err(DescriptionError::new(object.label("rope_type"), problem));
    }
    let factor = || object.required_number("factor").map(|factor| factor as f32);
    let scaling = match new.or(old) {
        Some("default") => no_factor(object)?,
        None if theta.is_some() => no_factor(object)?,
        Some("linear") => RopeScaling::Linear { factor: factor()? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: factor()?,
            low_frequency_factor: object.required_number("low_freq_factor")? as f32,
            high_frequency_factor: object.required_number("high_freq_factor")? as f32,
            original_context: object.required_size("original_max_position_embeddings")?,
        },
        Some(other) => {
            let problem = format!("is {other:?}, which is not supported (default, linear and llama3 are)");
            return Err(DescriptionError::new(object.label("rope_type"), problem));
        }
        None => return Err(DescriptionError::new(object.label("rope_type"), "is missing")),
    };
    Ok((theta, scaling))
}

fn no_factor(object: &Object<'_>) -> Result<RopeScaling, DescriptionError> {
    match object.number("factor")? {
        None | Some(1.0) => Ok(RopeScaling::None),
        Some(factor) => {
            let problem = format!("is {factor}, but the RoPE type does not scale");
            Err(DescriptionError::new(object.label("factor"), problem))
        }
    }
}

/// The scaling that the `rope.scaling.*` keys of a GGUF file describe.
pub(super) fn scaling_from_gguf(settings: &GgufSettings<'_>) -> Result<RopeScaling, DescriptionError> {
    let newer = settings.optional::<f32>("rope.scaling.factor")?;
    let older = settings.optional::<f32>("rope.scale_linear")?;
    let kind = settings.optional::<&str>("rope.scaling.type")?;
    if let Some(factor) = settings.optional::<f32>("rope.scaling.attn_factor")?
        && factor != 1.0
    {
        let problem = format!("is {factor}, which is not supported");
        return Err(DescriptionError::new(settings.label("rope.scaling.attn_factor"), problem));
    }
    // Zero stands for "not set" in this key.
    let factor = newer.or(older).filter(|&factor| factor != 0.0);
    match (kind, factor) {
        (None | Some("none" | "linear"), None | Some(1.0)) => Ok(RopeScaling::None),
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some("none"), Some(factor)) => {
            let problem = format!("is {factor}, but rope.scaling.type is \"none\"");
            Err(DescriptionError::new(settings.label("rope.scaling.factor"), problem))
        }
        (Some(other), _) => {
            let problem = format!("is {other:?}, which is not supported (none and linear are)");
            Err(DescriptionError::new(settings.label("rope.scaling.type"), problem))
        }
    }
}
