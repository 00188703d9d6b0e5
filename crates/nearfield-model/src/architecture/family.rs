//! The registry of families.

use std::fmt;

use super::{
    Description, DescriptionError,
    config::Config,
    families::{gemma3, gemma4, llama, qwen, qwen3_5},
    gguf_settings::GgufSettings,
    names::ExpertNames,
    tensor_table::LayerTensorNames,
};

/// A group of models that share a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
    /// Gemma 3, text.
    Gemma3,
    /// Gemma 4, text.
    Gemma4,
    /// Qwen3.5 and Qwen3.6, dense.
    Qwen35,
    /// Qwen3.5 and Qwen3.6 with experts.
    Qwen35Moe,
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.description().gguf_name)
    }
}

impl Family {
    pub(crate) fn description(self) -> &'static FamilyDescription {
        match self {
            Self::Llama => &llama::LLAMA,
            Self::Qwen2 => &qwen::QWEN2,
            Self::Qwen3 => &qwen::QWEN3,
            Self::Gemma3 => &gemma3::GEMMA3,
            Self::Gemma4 => &gemma4::GEMMA4,
            Self::Qwen35 => &qwen3_5::QWEN3_5,
            Self::Qwen35Moe => &qwen3_5::QWEN3_5_MOE,
        }
    }
}

/// All that is particular to a family when its files are read.
#[derive(Debug)]
pub(crate) struct FamilyDescription {
    pub(crate) family: Family,
    /// `general.architecture` in GGUF.
    pub(crate) gguf_name: &'static str,
    /// `model_type` in `config.json`.
    pub(crate) model_types: &'static [&'static str],
    /// `architectures` in `config.json`.
    pub(crate) classes: &'static [&'static str],
    /// The tensors of layers. Those for which the shape of a layer has a place must be there, and no others.
    pub(crate) layer_tensors: &'static [LayerTensorNames],
    /// The names of experts' matrices, where the family has experts.
    pub(crate) experts: Option<ExpertNames>,
    /// GGUF tensors outside the layers that `from_gguf` reads as settings.
    pub(crate) other_gguf_tensors: &'static [&'static str],
    pub(crate) from_gguf: fn(&GgufSettings<'_>) -> Result<Description, DescriptionError>,
    pub(crate) from_config: fn(&Config<'_>) -> Result<Description, DescriptionError>,
}

const FAMILIES: [Family; 7] = [
    Family::Llama,
    Family::Qwen2,
    Family::Qwen3,
    Family::Gemma3,
    Family::Gemma4,
    Family::Qwen35,
    Family::Qwen35Moe,
];

impl FamilyDescription {
    /// The family whose GGUF files name this architecture.
    pub(crate) fn for_gguf(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().map(|family| family.description()).find(|description| description.gguf_name == name)
    }

    /// The family whose checkpoints have this `model_type`.
    pub(crate) fn for_model_type(name: &str) -> Option<&'static Self> {
        FAMILIES
            .iter()
            .map(|family| family.description())
            .find(|description| description.model_types.contains(&name))
    }

    /// The names that are supported, for error messages.
    pub(crate) fn supported() -> String {
        FAMILIES.map(|family| family.description().gguf_name).join(", ")
    }
}
