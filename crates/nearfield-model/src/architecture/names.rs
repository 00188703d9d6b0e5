//! From the names in a file to the parts of a model, and back.

use std::collections::HashMap;

use super::{
    Architecture, FamilyDescription,
    tensor_table::{DraftTensor, ExpertTensor, LayerTensor, LayerTensorNames, TensorRole, shape},
};

/// Where the bytes of a tensor in a file belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// They are one part of the model.
    Role(TensorRole),
    /// They are the matrices of all experts of a layer, one after the other, each made of these parts, one below the
    /// other.
    Stack { layer: usize, parts: &'static [ExpertTensor] },
    /// They are copies that the layer does not use: keys and values of a layer that reads those of another.
    Unused,
}

/// How a family names the matrices of its experts, within a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpertNames {
    /// Before the number of the expert and before the names of stacks in published checkpoints.
    pub(crate) published: &'static str,
}

/// Parts of an expert with their names in both kinds of file.
const EXPERT_PARTS: [(ExpertTensor, &str, &str); 3] = [
    (ExpertTensor::Gate, "ffn_gate_exps.weight", "gate_proj.weight"),
    (ExpertTensor::Up, "ffn_up_exps.weight", "up_proj.weight"),
    (ExpertTensor::Down, "ffn_down_exps.weight", "down_proj.weight"),
];

/// Tensors outside the layers: part, name in GGUF, name in published checkpoints.
const OUTSIDE: [(TensorRole, &str, &str); 6] = [
    (TensorRole::TokenEmbedding, "token_embd.weight", "model.embed_tokens.weight"),
    (TensorRole::OutputNorm, "output_norm.weight", "model.norm.weight"),
    (TensorRole::OutputHead, "output.weight", "lm_head.weight"),
    (TensorRole::PerLayerEmbedding, "per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"),
    (
        TensorRole::PerLayerProjection,
        "per_layer_model_proj.weight",
        "model.per_layer_model_projection.weight",
    ),
    (TensorRole::PerLayerNorm, "per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"),
];

/// Tensors of the draft head: part, name within its block in GGUF, published name.
const DRAFT: [(DraftTensor, &str, &str); 4] = [
    (DraftTensor::Input, "nextn.eh_proj.weight", "mtp.fc.weight"),
    (DraftTensor::EmbeddingNorm, "nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight"),
    (DraftTensor::StateNorm, "nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight"),
    (DraftTensor::OutputNorm, "nextn.shared_head_norm.weight", "mtp.norm.weight"),
];

/// The names that the tensors of a model can have in one kind of file.
#[derive(Debug, Default)]
pub(crate) struct Names {
    targets: HashMap<String, Target>,
    /// Every part of the model with its name, in the order in which a missing one is reported.
    parts: Vec<(TensorRole, String)>,
}

impl Names {
    /// The names in GGUF.
    pub(crate) fn gguf(family: &FamilyDescription, architecture: &Architecture) -> Self {
        let layers = architecture.layers.len();
        let mut names = Self::default();
        for (role, name, _) in OUTSIDE {
            names.add(architecture, role, name.to_owned());
        }
        for (part, name, _) in DRAFT {
            names.add(architecture, TensorRole::Draft(part), format!("blk.{layers}.{name}"));
        }
        for layer in 0..architecture.all_layers().count() {
            let prefix = format!("blk.{layer}.");
            names.add_layer(family, architecture, layer, &prefix, |names| names.gguf);
            let count = Self::expert_count(family, architecture, layer);
            for (part, stack, _) in EXPERT_PARTS.into_iter().filter(|_| count > 0) {
                for index in 0..count {
                    let part = LayerTensor::Expert { index, part };
                    names.parts.push((TensorRole::Layer { index: layer, part }, format!("{prefix}{stack}")));
                }
                let parts = match part {
                    ExpertTensor::Gate => &[ExpertTensor::Gate],
                    ExpertTensor::Up => &[ExpertTensor::Up],
                    ExpertTensor::Down => &[ExpertTensor::Down],
                };
                names.targets.insert(format!("{prefix}{stack}"), Target::Stack { layer, parts });
            }
            if count > 0 {
                let parts = &[ExpertTensor::Gate, ExpertTensor::Up];
                let name = format!("{prefix}ffn_gate_up_exps.weight");
                names.targets.insert(name, Target::Stack { layer, parts });
            }
        }
        names
    }

    /// The names in published checkpoints, the level of a text model inside a larger one removed.
    pub(crate) fn published(family: &FamilyDescription, architecture: &Architecture) -> Self {
        let layers = architecture.layers.len();
        let mut names = Self::default();
        for (role, _, name) in OUTSIDE {
            names.add(architecture, role, name.to_owned());
        }
        for (part, _, name) in DRAFT {
            names.add(architecture, TensorRole::Draft(part), name.to_owned());
        }
        for layer in 0..architecture.all_layers().count() {
            let prefix =
                if layer == layers { "mtp.layers.0.".to_owned() } else { format!("model.layers.{layer}.") };
            names.add_layer(family, architecture, layer, &prefix, |names| names.published);
            let Some(experts) = family.experts else { continue };
            let count = Self::expert_count(family, architecture, layer);
            for index in 0..count {
                for (part, _, name) in EXPERT_PARTS {
                    let part = LayerTensor::Expert { index, part };
                    let name = format!("{prefix}{}.{index}.{name}", experts.published);
                    names.add(architecture, TensorRole::Layer { index: layer, part }, name);
                }
            }
            if count > 0 {
                let stacks: [(&str, &'static [ExpertTensor]); 2] = [
                    ("gate_up_proj", &[ExpertTensor::Gate, ExpertTensor::Up]),
                    ("down_proj", &[ExpertTensor::Down]),
                ];
                for (name, parts) in stacks {
                    let name = format!("{prefix}{}.{name}", experts.published);
                    names.targets.insert(name, Target::Stack { layer, parts });
                }
            }
        }
        names
    }

    fn expert_count(family: &FamilyDescription, architecture: &Architecture, layer: usize) -> u16 {
        let experts = architecture.layer(layer).and_then(|layer| layer.feed_forward.experts.as_ref());
        let count = experts.filter(|_| family.experts.is_some()).map_or(0, |experts| experts.count);
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    fn add(&mut self, architecture: &Architecture, role: TensorRole, name: String) {
        if shape(role, architecture).is_some() {
            self.targets.insert(name.clone(), Target::Role(role));
            self.parts.push((role, name));
        }
    }

    fn add_layer(
        &mut self,
        family: &FamilyDescription,
        architecture: &Architecture,
        layer: usize,
        prefix: &str,
        name: impl Fn(&LayerTensorNames) -> &'static str,
    ) {
        use LayerTensor as L;
        let attention = architecture.layer(layer).and_then(super::Layer::attention);
        let shares = attention.is_some_and(|attention| attention.shares.is_some());
        for names in family.layer_tensors {
            let full = format!("{prefix}{}", name(names));
            if shares && matches!(names.part, L::Key | L::KeyNorm | L::Value) {
                self.targets.insert(full, Target::Unused);
            } else {
                self.add(architecture, TensorRole::Layer { index: layer, part: names.part }, full);
            }
        }
    }

    /// Where a tensor of this name belongs; `None` where the model has no such part.
    pub(crate) fn target(&self, name: &str) -> Option<Target> {
        self.targets.get(name).copied()
    }

    /// Every part of the model with its name.
    pub(crate) fn parts(&self) -> &[(TensorRole, String)] {
        &self.parts
    }
}
