//! Which tensors a family has, their names in each file kind, and their shapes.

use super::Architecture;

/// What a tensor is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorRole {
    /// One row per token.
    TokenEmbedding,
    /// The norm before the output head.
    OutputNorm,
    /// One row per token; the token embedding itself where the two are tied.
    OutputHead,
    /// A tensor of one layer.
    Layer {
        /// The layer, from 0.
        index: usize,
        /// What it is to the layer.
        part: LayerTensor,
    },
}

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// Norm before attention, `[hidden]`.
    AttentionNorm,
    /// Query projection, `[heads * head_size, hidden]`.
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
    /// Norm before the feed-forward block, `[hidden]`.
    FeedForwardNorm,
    /// Gate projection, `[feed_forward, hidden]`.
    Gate,
    /// Up projection, `[feed_forward, hidden]`.
    Up,
    /// Down projection, `[hidden, feed_forward]`.
    Down,
    /// Norm of the feed-forward branch before it is added, `[hidden]`.
    PostFeedForwardNorm,
}

impl TensorRole {
    /// Whether it is the weight of an RMS norm.
    pub fn is_norm(self) -> bool {
        use LayerTensor as L;
        match self {
            Self::OutputNorm => true,
            Self::TokenEmbedding | Self::OutputHead => false,
            Self::Layer { part, .. } => matches!(
                part,
                L::AttentionNorm
                    | L::QueryNorm
                    | L::KeyNorm
                    | L::PostAttentionNorm
                    | L::FeedForwardNorm
                    | L::PostFeedForwardNorm
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
}

/// The shape of a role, or `None` for a layer that the architecture does not have.
///
/// The architecture has been checked, so products of two of its sizes fit 64 bits.
pub(crate) fn shape(role: TensorRole, architecture: &Architecture) -> Option<TensorShape> {
    use LayerTensor as L;
    let hidden = architecture.hidden_size;
    let vector = TensorShape::Vector;
    let matrix = |rows, columns| TensorShape::Matrix { rows, columns };
    let TensorRole::Layer { index, part } = role else {
        return Some(match role {
            TensorRole::OutputNorm => vector(hidden),
            _ => matrix(architecture.vocabulary_size, hidden),
        });
    };
    let layer = architecture.layers.get(index)?;
    let queries = layer.heads * layer.head_size;
    let keys = layer.key_value_heads * layer.head_size;
    Some(match part {
        L::AttentionNorm | L::PostAttentionNorm | L::FeedForwardNorm | L::PostFeedForwardNorm => {
            vector(hidden)
        }
        L::QueryNorm | L::KeyNorm => vector(layer.head_size),
        L::Query => matrix(queries, hidden),
        L::QueryBias => vector(queries),
        L::Key | L::Value => matrix(keys, hidden),
        L::KeyBias | L::ValueBias => vector(keys),
        L::AttentionOutput => matrix(hidden, queries),
        L::Gate | L::Up => matrix(layer.feed_forward_size, hidden),
        L::Down => matrix(hidden, layer.feed_forward_size),
    })
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
