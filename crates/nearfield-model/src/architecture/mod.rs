//! What a model is made of: sizes, layers, position encoding, and which tensors it has under which names.
//!
//! An [`Architecture`] is filled from GGUF metadata or from a published `config.json`; after that nobody needs to know
//! which it was. Settings that change the computation and are not supported are errors that name them.

mod config;
mod contents;
mod families;
mod family;
mod gguf_settings;
mod names;
mod rope;
mod tensor_table;

use thiserror::Error;

pub use contents::NamedTensor;
pub use family::Family;
pub use rope::{Rope, RopePairing, RopeScaling};
pub use tensor_table::{DraftTensor, ExpertTensor, LayerTensor, TensorRole};

pub(crate) use config::Config;
pub(crate) use family::FamilyDescription;
pub(crate) use gguf_settings::GgufSettings;
pub(crate) use names::{Names, Target};
pub(crate) use tensor_table::{TensorShape, shape};

use crate::gguf::GgufError;

/// Most layers accepted; published models have at most a few hundred.
const MAX_LAYERS: usize = 4096;
/// Most experts accepted; published models have at most a few hundred.
const MAX_EXPERTS: usize = 4096;
/// Largest value of any single size or count. Keeps every product of two of them inside 64 bits.
const MAX_SIZE: usize = 1 << 31;

/// The shape of a decoder-only transformer and the constants of its arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Which table it was read with.
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
    /// Where set to `p`, each token has `p` values of its own for every layer, from a second embedding.
    pub per_layer_input: Option<usize>,
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// The layer of a head that foretells one token more, if the file has one. It follows the others in tensor roles.
    pub draft: Option<Layer>,
    /// Whether a checkpoint asks for a cache of keys and values in FP8, and gives scales for it.
    pub wants_fp8_cache: bool,
}

impl Architecture {
    /// A layer by its index in tensor roles: the layers in order, then that of the draft head.
    pub fn layer(&self, index: usize) -> Option<&Layer> {
        if index == self.layers.len() { self.draft.as_ref() } else { self.layers.get(index) }
    }

    /// All layers that have tensors, the draft head's last.
    pub fn all_layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain(&self.draft)
    }
}

/// The shape of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The part that mixes positions.
    pub mixer: Mixer,
    /// The part that works on each position alone.
    pub feed_forward: FeedForward,
}

impl Layer {
    /// The attention block, if that is how the layer mixes positions.
    pub fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::DeltaNet(_) => None,
        }
    }

    /// The recurrent block, if that is how the layer mixes positions.
    pub fn delta_net(&self) -> Option<&DeltaNet> {
        match &self.mixer {
            Mixer::DeltaNet(delta) => Some(delta),
            Mixer::Attention(_) => None,
        }
    }

    /// The attention block of a layer that stores keys and values of its own.
    pub fn cached(&self) -> Option<&Attention> {
        self.attention().filter(|attention| attention.shares.is_none())
    }
}

/// How a layer mixes positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention over cached keys and values.
    Attention(Attention),
    /// A recurrence over a state of fixed size.
    DeltaNet(DeltaNet),
}

/// The shape of an attention block.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Elements of one head of queries, keys and values.
    pub head_size: usize,
    /// Number of positions that a position sees, itself included; `None` sees all earlier ones.
    pub window: Option<usize>,
    /// Index into [`Architecture::rope`].
    pub rope: usize,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// The query projection yields for each head its queries and then as many gates; the sigmoid of these multiplies
    /// what was attended.
    pub gated: bool,
    /// There is no value projection: values are the raw output of the key projection.
    pub values_are_keys: bool,
    /// Each value head is divided by its root mean square.
    pub values_normed: bool,
    /// The earlier layer whose keys and values it reads, where it has none of its own.
    pub shares: Option<usize>,
    /// What keys and values in an FP8 cache are multiplied by, where the checkpoint says so; else 1.
    pub cache_scales: [f32; 2],
}

impl Attention {
    /// The usual block: everything is seen, scores are multiplied by `head_size^-1/2`.
    pub(crate) fn plain(heads: usize, key_value_heads: usize, head_size: usize) -> Self {
        Self {
            heads,
            key_value_heads,
            head_size,
            window: None,
            rope: 0,
            scale: inverse_root(head_size as f64),
            gated: false,
            values_are_keys: false,
            values_normed: false,
            shares: None,
            cache_scales: [1.0; 2],
        }
    }

    /// Rows of the query projection.
    pub fn query_rows(&self) -> usize {
        self.width() * if self.gated { 2 } else { 1 }
    }

    /// Elements of all heads of queries.
    pub fn width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Elements of all heads of keys.
    pub fn key_value_width(&self) -> usize {
        self.key_value_heads * self.head_size
    }
}

/// The shape of a gated delta network.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNet {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, each with a state `[key_size][value_size]`; a multiple of `key_heads`.
    pub value_heads: usize,
    /// Elements of one head of queries or keys.
    pub key_size: usize,
    /// Elements of one head of values.
    pub value_size: usize,
    /// Positions that the convolution sees, the current one included.
    pub kernel: usize,
    /// Value head `j` reads key head `j % key_heads` (files whose heads were reordered), else `j / (value_heads /
    /// key_heads)`.
    pub tiled: bool,
}

impl DeltaNet {
    /// Elements of all value heads.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_size
    }

    /// Channels of the convolution: queries, keys, values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_size + self.value_width()
    }

    /// The key head that a value head reads.
    pub fn key_head(&self, value_head: usize) -> usize {
        if self.tiled {
            value_head % self.key_heads
        } else {
            value_head / (self.value_heads / self.key_heads).max(1)
        }
    }

    /// Numbers in the state of one sequence: the heads' matrices, and the inputs that the convolution still needs.
    pub fn state_size(&self) -> usize {
        self.value_heads * self.key_size * self.value_size + (self.kernel - 1) * self.channels()
    }
}

impl FeedForward {
    /// A block without experts.
    pub(crate) fn dense(size: usize) -> Self {
        Self { size, experts: None }
    }
}

/// The shape of a feed-forward block.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// Width of the part that every token goes through; beside routed experts this is the shared expert.
    pub size: usize,
    /// Parts of which a router chooses a few for each token.
    pub experts: Option<Experts>,
}

/// The routed experts of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many each token goes through.
    pub used: usize,
    /// Width of each.
    pub size: usize,
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
    pub(crate) conventions: Conventions,
}

/// How a file stores numbers that are not stored as they are used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conventions {
    /// Added to every norm weight: 1 where files store them centred on zero.
    pub(crate) norm_offset: f32,
    /// Decay rates are stored as logarithms of what they are, sign dropped.
    pub(crate) decay_logarithm: bool,
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
        size("the hidden size", self.hidden_size)?;
        size("the vocabulary size", self.vocabulary_size)?;
        size("the context length", self.context_length)?;
        positive("the norm epsilon", self.norm_epsilon)?;
        positive("the embedding scale", self.embedding_scale)?;
        for softcap in [self.final_logit_softcap, self.attention_logit_softcap].into_iter().flatten() {
            positive("a logit softcap", softcap)?;
        }
        if let Some(width) = self.per_layer_input {
            size("the per-layer input size", width)?;
            size("all per-layer inputs together", width * self.layers.len())?;
        }
        for (index, layer) in self.all_layers().enumerate() {
            size("the feed-forward size", layer.feed_forward.size)?;
            if let Some(experts) = &layer.feed_forward.experts {
                experts.check()?;
            }
            match &layer.mixer {
                Mixer::Attention(attention) => self.check_attention(attention, index)?,
                Mixer::DeltaNet(delta) => delta.check()?,
            }
        }
        Ok(())
    }

    fn check_attention(&self, attention: &Attention, index: usize) -> Result<(), DescriptionError> {
        size("the number of heads", attention.heads)?;
        size("the number of key and value heads", attention.key_value_heads)?;
        size("the head size", attention.head_size)?;
        size("the sliding window", attention.window.unwrap_or(1))?;
        size("the width of all heads", attention.query_rows())?;
        positive("the attention scale", attention.scale)?;
        if !attention.heads.is_multiple_of(attention.key_value_heads) {
            let problem = format!("is {}, not a multiple of {}", attention.heads, attention.key_value_heads);
            return Err(DescriptionError::new("the number of heads per key and value head", problem));
        }
        if let Some(source) = attention.shares {
            let same = |source: &Attention| {
                (source.key_value_heads, source.head_size) == (attention.key_value_heads, attention.head_size)
            };
            let source = self.layers.get(source).filter(|_| source < index).and_then(Layer::cached);
            if !source.is_some_and(same) {
                let problem = "is no earlier layer of the same shape with keys and values of its own";
                return Err(DescriptionError::new("the layer whose keys and values another shares", problem));
            }
        }
        match self.rope.get(attention.rope) {
            Some(rope) => rope.check(attention.head_size),
            None => Err(DescriptionError::new("a layer's position encoding", "is not described")),
        }
    }
}

impl DeltaNet {
    fn check(&self) -> Result<(), DescriptionError> {
        /// Largest count of heads and largest head; published ones have at most 128 of each.
        const MOST: usize = 1 << 12;
        for (name, value) in [
            ("the number of linear key heads", self.key_heads),
            ("the number of linear value heads", self.value_heads),
            ("the linear key head size", self.key_size),
            ("the linear value head size", self.value_size),
            ("the linear convolution's kernel", self.kernel),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(DescriptionError::new(name, format!("is {value}; from 1 to {MOST} is possible")));
            }
        }
        if !self.value_heads.is_multiple_of(self.key_heads) {
            let problem = format!("is {}, not a multiple of {}", self.value_heads, self.key_heads);
            return Err(DescriptionError::new("the number of linear value heads", problem));
        }
        Ok(())
    }
}

impl Experts {
    fn check(&self) -> Result<(), DescriptionError> {
        size("the size of an expert", self.size)?;
        if !(1..=MAX_EXPERTS).contains(&self.count) {
            let problem = format!("is {}; from 1 to {MAX_EXPERTS} experts are possible", self.count);
            return Err(DescriptionError::new("the number of experts", problem));
        }
        if self.used == 0 || self.used > self.count {
            let problem = format!("is {} of {}", self.used, self.count);
            return Err(DescriptionError::new("the number of experts a token goes through", problem));
        }
        Ok(())
    }
}

/// Checks that a value is a possible size.
fn size(name: &str, value: usize) -> Result<(), DescriptionError> {
    match value {
        1..=MAX_SIZE => Ok(()),
        _ => Err(DescriptionError::new(name, format!("is {value}, which is no possible size"))),
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
