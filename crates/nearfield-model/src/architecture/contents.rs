//! What a file of a model of a certain shape holds, for those who write one or count its bytes.

use super::{
    Architecture,
    names::Names,
    tensor_table::{ExpertTensor, LayerTensor, TensorRole, shape},
};

/// A tensor as a file of the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTensor {
    /// What it is to the model; of a stack of experts' matrices, the first.
    pub role: TensorRole,
    /// Its name in the file.
    pub name: String,
    /// Sizes, slowest-varying first. A stack has the number of experts before those of one matrix.
    pub shape: Vec<usize>,
}

impl NamedTensor {
    /// Elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }
}

impl Architecture {
    /// The tensors of a published checkpoint, experts one by one. `own_head` says whether the output head is a matrix of
    /// its own.
    pub fn published_tensors(&self, own_head: bool) -> Vec<NamedTensor> {
        let names = Names::published(self.family.description(), self);
        let kept = |(role, name): &(TensorRole, String)| {
            let mut shape =
                shape(*role, self).filter(|_| own_head || *role != TensorRole::OutputHead)?.sizes();
            if matches!(role, TensorRole::Layer { part: LayerTensor::DeltaConvolution, .. }) {
                // A convolution over one channel each.
                shape.insert(1, 1);
            }
            // The text model is a part of a larger one.
            let name = match name.strip_prefix("model.") {
                Some(rest) => format!("model.language_model.{rest}"),
                None => name.clone(),
            };
            Some(NamedTensor { role: *role, name, shape })
        };
        names.parts().iter().filter_map(kept).collect()
    }

    /// The tensors of a GGUF file, experts in stacks. `own_head` as before.
    pub fn gguf_tensors(&self, own_head: bool) -> Vec<NamedTensor> {
        let names = Names::gguf(self.family.description(), self);
        let kept = |(role, name): &(TensorRole, String)| {
            let mut shape =
                shape(*role, self).filter(|_| own_head || *role != TensorRole::OutputHead)?.sizes();
            if let TensorRole::Layer { index: layer, part: LayerTensor::Expert { index, .. } } = role {
                let experts = self.layer(*layer)?.feed_forward.experts.as_ref()?;
                shape.insert(0, experts.count);
                if *index > 0 {
                    return None;
                }
            }
            if matches!(role, TensorRole::Layer { part: LayerTensor::SharedGate, .. }) {
                // A matrix of one row is a vector there.
                shape.remove(0);
            }
            Some(NamedTensor { role: *role, name: name.clone(), shape })
        };
        names.parts().iter().filter_map(kept).collect()
    }
}

impl TensorRole {
    /// Whether it is a matrix of a linear layer that compressed checkpoints store in their format: not the embeddings,
    /// the head, the small projections of routers and delta networks, and what is no matrix.
    pub fn is_compressed_layer(self) -> bool {
        use LayerTensor as L;
        match self {
            Self::Layer { part, .. } => matches!(
                part,
                L::Query
                    | L::Key
                    | L::Value
                    | L::AttentionOutput
                    | L::DeltaInput
                    | L::DeltaGate
                    | L::DeltaOutput
                    | L::Gate
                    | L::Up
                    | L::Down
                    | L::PerLayerGate
                    | L::PerLayerOutput
                    | L::Expert { part: ExpertTensor::Gate | ExpertTensor::Up | ExpertTensor::Down, .. }
            ),
            Self::PerLayerProjection => true,
            Self::Draft(_)
            | Self::TokenEmbedding
            | Self::PerLayerEmbedding
            | Self::PerLayerNorm
            | Self::OutputNorm
            | Self::OutputHead => false,
        }
    }

    /// Whether it is one of the tables with a row for each token, or the head that may be one of them.
    pub fn is_vocabulary(self) -> bool {
        matches!(self, Self::TokenEmbedding | Self::OutputHead)
    }
}
