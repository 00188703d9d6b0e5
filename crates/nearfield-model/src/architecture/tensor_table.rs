//! Which tensors a family has, their names in each file kind, and their shapes.

use super::{Architecture, DeltaNet, Layer};

/// What a tensor is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorRole {
    /// One row per token.
    TokenEmbedding,
    /// One row per token: the inputs of its own for each layer, layer after layer.
    PerLayerEmbedding,
    /// Projects the token embedding to the per-layer inputs, `[layers * per_layer_input, hidden]`.
    PerLayerProjection,
    /// Norm of each layer's part of that projection, `[per_layer_input]`.
    PerLayerNorm,
    /// The norm before the output head.
    OutputNorm,
    /// One row per token; the token embedding itself where the two are tied.
    OutputHead,
    /// A tensor of one layer. The layer of a draft head follows the others.
    Layer {
        /// The layer, from 0.
        index: usize,
        /// What it is to the layer.
        part: LayerTensor,
    },
    /// A tensor of the draft head, its layer aside.
    Draft(DraftTensor),
}

/// What a tensor is to the head that foretells one token more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DraftTensor {
    /// Norm of the token's embedding, `[hidden]`.
    EmbeddingNorm,
    /// Norm of the model's last state, `[hidden]`.
    StateNorm,
    /// Joins the two, embedding first, `[hidden, 2 * hidden]`.
    Input,
    /// Norm before the output head, `[hidden]`.
    OutputNorm,
}

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// Norm before the part that mixes positions, `[hidden]`.
    AttentionNorm,
    /// Query projection, `[heads * head_size, hidden]`; twice as many rows where each head has gates.
    Query,
    /// Added to the query projection, `[heads * head_size]`.
    QueryBias,
    /// Key projection, `[key_value_heads * head_size, hidden]`.
    Key,
    /// Added to the key projection, `[key_value_heads * head_size]`.
    KeyBias,
    /// Value projection, `[key_value_heads * head_size, hidden]`.
    Value,
    /// Added to the value projection, `[key_value_heads * head_size]`.
    ValueBias,
    /// Projection of the attended values, `[hidden, heads * head_size]`.
    AttentionOutput,
    /// Norm of every query head, `[head_size]`.
    QueryNorm,
    /// Norm of every key head, `[head_size]`.
    KeyNorm,
    /// Norm of the attention branch before it is added, `[hidden]`.
    PostAttentionNorm,
    /// Projection of a delta network to queries, keys and values, `[channels, hidden]`.
    DeltaInput,
    /// Projection to the gates of a delta network's output, `[value_heads * value_size, hidden]`.
    DeltaGate,
    /// Projection to the strengths of its updates, `[value_heads, hidden]`.
    DeltaStrength,
    /// Projection to its decays, `[value_heads, hidden]`.
    DeltaDecay,
    /// Added to the decays' projection, `[value_heads]`.
    DeltaDecayBias,
    /// Factor on the decays, negative, `[value_heads]`.
    DeltaDecayRate,
    /// Its convolution along positions, `[channels, kernel]`.
    DeltaConvolution,
    /// Norm of every value head of its output, `[value_size]`; never centred on zero.
    DeltaNorm,
    /// Projection of its output, `[hidden, value_heads * value_size]`.
    DeltaOutput,
    /// Norm before the feed-forward block, `[hidden]`.
    FeedForwardNorm,
    /// Gate projection, `[feed_forward, hidden]`.
    Gate,
    /// Up projection, `[feed_forward, hidden]`.
    Up,
    /// Down projection, `[hidden, feed_forward]`.
    Down,
    /// Projection to the sigmoid that multiplies a shared expert's output, `[1, hidden]`.
    SharedGate,
    /// Norm of the dense part's output where experts stand beside it, `[hidden]`.
    PostDenseNorm,
    /// Projection to the experts' scores, `[experts, hidden]`.
    Router,
    /// Factor on the router's normed input, `[hidden]`.
    RouterScale,
    /// Factor on each expert's weight, `[experts]`.
    ExpertScale,
    /// Norm of the experts' input where it is another than the dense part's, `[hidden]`.
    ExpertsNorm,
    /// Norm of the experts' joint output, `[hidden]`.
    PostExpertsNorm,
    /// A matrix of one expert.
    Expert {
        /// The expert, from 0.
        index: u16,
        /// Which matrix.
        part: ExpertTensor,
    },
    /// Norm of the feed-forward branch before it is added, `[hidden]`.
    PostFeedForwardNorm,
    /// Gate projection of the per-layer input, `[per_layer_input, hidden]`.
    PerLayerGate,
    /// Projection of the gated per-layer input, `[hidden, per_layer_input]`.
    PerLayerOutput,
    /// Norm of that branch before it is added, `[hidden]`.
    PostPerLayerNorm,
    /// Factor on the whole stream at the layer's end, `[1]`.
    LayerScale,
}

/// Which matrix of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExpertTensor {
    /// Gate projection, `[expert_size, hidden]`.
    Gate,
    /// Up projection, `[expert_size, hidden]`.
    Up,
    /// Down projection, `[hidden, expert_size]`.
    Down,
}

impl TensorRole {
    /// Whether it is the weight of an RMS norm that follows the family's convention.
    pub fn is_norm(self) -> bool {
        use LayerTensor as L;
        match self {
            Self::OutputNorm | Self::PerLayerNorm => true,
            Self::TokenEmbedding
            | Self::PerLayerEmbedding
            | Self::PerLayerProjection
            | Self::OutputHead
            | Self::Draft(DraftTensor::Input) => false,
            Self::Draft(_) => true,
            Self::Layer { part, .. } => matches!(
                part,
                L::AttentionNorm
                    | L::QueryNorm
                    | L::KeyNorm
                    | L::PostAttentionNorm
                    | L::FeedForwardNorm
                    | L::PostFeedForwardNorm
                    | L::PostDenseNorm
                    | L::ExpertsNorm
                    | L::PostExpertsNorm
                    | L::PostPerLayerNorm
            ),
        }
    }
}

/// The shape that a role has in an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorShape {
    Vector(usize),
    Matrix { rows: usize, columns: usize },
}

impl TensorShape {
    /// Sizes, slowest-varying first.
    pub(crate) fn sizes(self) -> Vec<usize> {
        match self {
            Self::Vector(length) => vec![length],
            Self::Matrix { rows, columns } => vec![rows, columns],
        }
    }

    /// Whether these sizes, slowest-varying first, are the same but for sizes of 1, which files have and drop freely.
    pub(crate) fn fits(self, found: &[usize]) -> bool {
        let sizes = self.sizes();
        sizes.iter().filter(|size| **size != 1).eq(found.iter().filter(|size| **size != 1))
    }

    /// Rows and columns; a vector is one row.
    pub(crate) fn rows_and_columns(self) -> (usize, usize) {
        match self {
            Self::Vector(length) => (1, length),
            Self::Matrix { rows, columns } => (rows, columns),
        }
    }
}

/// The shape of a role, or `None` where the architecture does not have it.
///
/// The architecture has been checked, so products of two of its sizes fit 64 bits.
pub(crate) fn shape(role: TensorRole, architecture: &Architecture) -> Option<TensorShape> {
    let hidden = architecture.hidden_size;
    let vector = TensorShape::Vector;
    let matrix = |rows, columns| TensorShape::Matrix { rows, columns };
    let per_layer = || architecture.per_layer_input.map(|width| width * architecture.layers.len());
    match role {
        TensorRole::OutputNorm => Some(vector(hidden)),
        TensorRole::TokenEmbedding | TensorRole::OutputHead => {
            Some(matrix(architecture.vocabulary_size, hidden))
        }
        TensorRole::PerLayerEmbedding => Some(matrix(architecture.vocabulary_size, per_layer()?)),
        TensorRole::PerLayerProjection => Some(matrix(per_layer()?, hidden)),
        TensorRole::PerLayerNorm => architecture.per_layer_input.map(vector),
        TensorRole::Layer { index, part } => layer_shape(part, index, architecture),
        TensorRole::Draft(part) => architecture.draft.as_ref().map(|_| match part {
            DraftTensor::Input => matrix(hidden, 2 * hidden),
            _ => vector(hidden),
        }),
    }
}

fn layer_shape(part: LayerTensor, index: usize, architecture: &Architecture) -> Option<TensorShape> {
    use LayerTensor as L;
    let layer = architecture.layer(index)?;
    let hidden = architecture.hidden_size;
    let vector = TensorShape::Vector;
    let matrix = |rows, columns| TensorShape::Matrix { rows, columns };
    match part {
        L::Query | L::QueryBias | L::Key | L::KeyBias | L::Value | L::ValueBias => {
            projection_shape(part, layer, hidden)
        }
        L::AttentionOutput => Some(matrix(hidden, layer.attention()?.width())),
        L::QueryNorm => Some(vector(layer.attention()?.head_size)),
        L::KeyNorm => Some(vector(layer.cached()?.head_size)),
        L::DeltaInput
        | L::DeltaGate
        | L::DeltaStrength
        | L::DeltaDecay
        | L::DeltaDecayBias
        | L::DeltaDecayRate
        | L::DeltaConvolution
        | L::DeltaNorm
        | L::DeltaOutput => Some(delta_shape(part, layer.delta_net()?, hidden)),
        L::AttentionNorm | L::PostAttentionNorm | L::FeedForwardNorm | L::PostFeedForwardNorm => {
            Some(vector(hidden))
        }
        L::LayerScale => Some(vector(1)),
        L::Gate | L::Up => Some(matrix(layer.feed_forward.size, hidden)),
        L::Down => Some(matrix(hidden, layer.feed_forward.size)),
        L::PerLayerGate => Some(matrix(architecture.per_layer_input?, hidden)),
        L::PerLayerOutput => Some(matrix(hidden, architecture.per_layer_input?)),
        L::PostPerLayerNorm => architecture.per_layer_input.map(|_| vector(hidden)),
        L::SharedGate => layer.feed_forward.experts.as_ref().map(|_| matrix(1, hidden)),
        L::PostDenseNorm | L::RouterScale | L::ExpertsNorm | L::PostExpertsNorm => {
            layer.feed_forward.experts.as_ref().map(|_| vector(hidden))
        }
        L::Router => Some(matrix(layer.feed_forward.experts.as_ref()?.count, hidden)),
        L::ExpertScale => Some(vector(layer.feed_forward.experts.as_ref()?.count)),
        L::Expert { index, part } => {
            let experts = layer.feed_forward.experts.as_ref()?;
            (usize::from(index) < experts.count).then(|| match part {
                ExpertTensor::Gate | ExpertTensor::Up => matrix(experts.size, hidden),
                ExpertTensor::Down => matrix(hidden, experts.size),
            })
        }
    }
}

/// Shapes of the projections of attention. Layers that read the keys and values of others have queries only.
fn projection_shape(part: LayerTensor, layer: &Layer, hidden: usize) -> Option<TensorShape> {
    use LayerTensor as L;
    let attention = match part {
        L::Query | L::QueryBias => layer.attention()?,
        _ => layer.cached()?,
    };
    let rows = match part {
        L::Query | L::QueryBias => attention.query_rows(),
        L::Value | L::ValueBias if attention.values_are_keys => return None,
        _ => attention.key_value_width(),
    };
    Some(match part {
        L::Query | L::Key | L::Value => TensorShape::Matrix { rows, columns: hidden },
        _ => TensorShape::Vector(rows),
    })
}

fn delta_shape(part: LayerTensor, delta: &DeltaNet, hidden: usize) -> TensorShape {
    use LayerTensor as L;
    let vector = TensorShape::Vector;
    let matrix = |rows, columns| TensorShape::Matrix { rows, columns };
    match part {
        L::DeltaInput => matrix(delta.channels(), hidden),
        L::DeltaGate => matrix(delta.value_width(), hidden),
        L::DeltaStrength | L::DeltaDecay => matrix(delta.value_heads, hidden),
        L::DeltaConvolution => matrix(delta.channels(), delta.kernel),
        L::DeltaNorm => vector(delta.value_size),
        L::DeltaOutput => matrix(hidden, delta.value_width()),
        _ => vector(delta.value_heads),
    }
}

/// One line of a family's table: a tensor that each of its layers has, and the names of it within a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerTensorNames {
    pub(crate) part: LayerTensor,
    /// After `blk.N.` in GGUF.
    pub(crate) gguf: &'static str,
    /// After `model.layers.N.` in published checkpoints.
    pub(crate) published: &'static str,
}

/// A line of a table.
pub(super) const fn names(
    part: LayerTensor,
    gguf: &'static str,
    published: &'static str,
) -> LayerTensorNames {
    LayerTensorNames { part, gguf, published }
}
