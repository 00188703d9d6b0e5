//! The registry of families.

use std::fmt;

use super::{
    Description, DescriptionError, TensorRole,
    config::Config,
    families::{gemma3, llama, qwen},
    gguf_settings::GgufSettings,
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
    /// The tensors of each layer; all of them must be there, and no others.
    pub(crate) layer_tensors: &'static [LayerTensorNames],
    /// GGUF tensors outside the layers that `from_gguf` reads as settings.
    pub(crate) other_gguf_tensors: &'static [&'static str],
    pub(crate) from_gguf: fn(&GgufSettings<'_>) -> Result<Description, DescriptionError>,
    pub(crate) from_config: fn(&Config<'_>) -> Result<Description, DescriptionError>,
}

const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma3];

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

    /// Every role of a model of `layers` layers with its name in GGUF.
    pub(crate) fn gguf_names(&self, layers: usize) -> impl Iterator<Item = (TensorRole, String)> + '_ {
        let outside = [
            (TensorRole::TokenEmbedding, "token_embd.weight"),
            (TensorRole::OutputNorm, "output_norm.weight"),
            (TensorRole::OutputHead, "output.weight"),
        ];
        let inside = self.layer_roles(layers).map(|(index, names)| {
            (TensorRole::Layer { index, part: names.part }, format!("blk.{index}.{}", names.gguf))
        });
        outside.into_iter().map(|(role, name)| (role, name.to_owned())).chain(inside)
    }

    /// Every role of a model of `layers` layers with its name in published checkpoints, text prefixes removed.
    pub(crate) fn published_names(&self, layers: usize) -> impl Iterator<Item = (TensorRole, String)> + '_ {
        let outside = [
            (TensorRole::TokenEmbedding, "model.embed_tokens.weight"),
            (TensorRole::OutputNorm, "model.norm.weight"),
            (TensorRole::OutputHead, "lm_head.weight"),
        ];
        let inside = self.layer_roles(layers).map(|(index, names)| {
            (
                TensorRole::Layer { index, part: names.part },
                format!("model.layers.{index}.{}", names.published),
            )
        });
        outside.into_iter().map(|(role, name)| (role, name.to_owned())).chain(inside)
    }

    fn layer_roles(&self, layers: usize) -> impl Iterator<Item = (usize, &'static LayerTensorNames)> + use<> {
        let tensors = self.layer_tensors;
        (0..layers).flat_map(move |index| tensors.iter().map(move |names| (index, names)))
    }
}
