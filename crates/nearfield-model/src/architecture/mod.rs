//! What a model is made of: sizes, layers, position encoding, and which tensors it has under which names.
//!
//! An [`Architecture`] is filled from GGUF metadata or from a published `config.json`; after that nobody needs to know
//! which it was. Settings that change the computation and are not supported are errors that name them.

mod config;
mod families;
mod family;
mod gguf_settings;
mod rope;
mod tensor_table;

use thiserror::Error;

pub use family::Family;
pub use rope::{Rope, RopePairing, RopeScaling};
pub use tensor_table::{LayerTensor, TensorRole};

pub(crate) use config::Config;
pub(crate) use family::FamilyDescription;
pub(crate) use gguf_settings::GgufSettings;
pub(crate) use tensor_table::{TensorShape, shape};

use crate::gguf::GgufError;

/// Most layers accepted; published models have at most a few hundred.
const MAX_LAYERS: usize = 4096;
/// Largest value of any single size or count. Keeps every product of two of them inside 64 bits.
const MAX_SIZE: usize = 1 << 31;

/// The shape of a decoder-only transformer and the constants of its arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Which graph computes it.
    pub family: Family,
    /// The model's own name, for people.
    pub name: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the token embedding; may exceed the number of tokens that the tokenizer knows.
    pub vocabulary_size: usize,
    /// Tokens that the model was made for.
    pub context_length: usize,
    /// Added to the mean square inside every RMS norm.
    pub norm_epsilon: f32,
    /// Factor on embedding rows: 1, or the square root of the hidden size.
    pub embedding_scale: f32,
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// Where set to `c`, logits become `c * tanh(logits / c)`.
    pub final_logit_softcap: Option<f32>,
    /// Where set to `c`, attention scores become `c * tanh(scores / c)` before the mask.
    pub attention_logit_softcap: Option<f32>,
    /// Position encodings that layers refer to by index.
    pub rope: Vec<Rope>,
    /// The layers in order.
    pub layers: Vec<Layer>,
}

/// The shape of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Elements of one head of queries, keys and values.
    pub head_size: usize,
    /// Width of the feed-forward block.
    pub feed_forward_size: usize,
    /// Number of positions that a position sees, itself included; `None` sees all earlier ones.
    pub window: Option<usize>,
    /// Index into [`Architecture::rope`].
    pub rope: usize,
    /// Factor on the products of queries and keys.
    pub attention_scale: f32,
}

/// The activation of the feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// Where the output head's matrix comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The token embedding, whatever else is in the file.
    Tied,
    /// A matrix of its own, which must be there.
    Own,
    /// A matrix of its own where there is one, else the token embedding: the rule of GGUF.
    IfPresent,
}

/// An architecture together with what a loader must know to read its tensors.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) architecture: Architecture,
    pub(crate) head: Head,
    /// Added to every norm weight: 1 where files store them centred on zero.
    pub(crate) norm_offset: f32,
}

/// A setting that is missing, malformed or not supported.
#[derive(Debug, Error)]
pub(crate) enum DescriptionError {
    #[error("{setting} {problem}")]
    Setting { setting: String, problem: String },
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

impl DescriptionError {
    fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Setting { setting: setting.into(), problem: problem.into() }
    }
}

impl Architecture {
    /// Checks what the readers of both file kinds promise to the engine.
    pub(crate) fn check(&self) -> Result<(), DescriptionError> {
        let size = |name: &str, value: usize| match value {
            1..=MAX_SIZE => Ok(()),
            _ => Err(DescriptionError::new(name, format!("is {value}, which is no possible size"))),
        };
        size("the hidden size", self.hidden_size)?;
        size("the vocabulary size", self.vocabulary_size)?;
        size("the context length", self.context_length)?;
        positive("the norm epsilon", self.norm_epsilon)?;
        positive("the embedding scale", self.embedding_scale)?;
        for softcap in [self.final_logit_softcap, self.attention_logit_softcap].into_iter().flatten() {
            positive("a logit softcap", softcap)?;
        }
        for layer in &self.layers {
            size("the number of heads", layer.heads)?;
            size("the number of key and value heads", layer.key_value_heads)?;
            size("the head size", layer.head_size)?;
            size("the feed-forward size", layer.feed_forward_size)?;
            size("the sliding window", layer.window.unwrap_or(1))?;
            positive("the attention scale", layer.attention_scale)?;
            if !layer.heads.is_multiple_of(layer.key_value_heads) {
                let problem = format!("is {}, not a multiple of {}", layer.heads, layer.key_value_heads);
                return Err(DescriptionError::new("the number of heads per key and value head", problem));
            }
            match self.rope.get(layer.rope) {
                Some(rope) => rope.check(layer.head_size)?,
                None => return Err(DescriptionError::new("a layer's position encoding", "is not described")),
            }
        }
        Ok(())
    }
}

fn positive(name: &str, value: f32) -> Result<(), DescriptionError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(DescriptionError::new(name, format!("is {value}, but must be a positive number")))
}

/// Checks a number of layers before anything is allocated for them.
fn layer_count(setting: String, count: usize) -> Result<usize, DescriptionError> {
    match count {
        1..=MAX_LAYERS => Ok(count),
        _ => Err(DescriptionError::new(
            setting,
            format!("is {count}; from 1 to {MAX_LAYERS} layers are possible"),
        )),
    }
}

/// The size of a head where nothing states it: an equal share of the hidden size.
fn equal_share(hidden_size: usize, heads: usize, setting: String) -> Result<usize, DescriptionError> {
    if hidden_size.checked_rem(heads) == Some(0) {
        return Ok(hidden_size / heads);
    }
    let problem = format!("is missing, and {heads} heads do not divide the hidden size {hidden_size}");
    Err(DescriptionError::new(setting, problem))
}

/// `head_size^-1/2`, the usual factor on attention scores, rounded once.
fn inverse_root(size: f64) -> f32 {
    size.sqrt().recip() as f32
}
