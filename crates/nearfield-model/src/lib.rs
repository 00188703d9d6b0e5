//! Reads model files: GGUF and safetensors, the architecture that they describe, tokenizers and chat templates.

pub mod architecture;
pub mod chat;
pub mod detokenizer;
mod error;
mod files;
pub mod gguf;
mod line_up;
mod mapped;
mod model;
pub mod output;
mod safetensors;
pub mod stop;
mod tensors;
pub mod text;
pub mod tokenizer;

pub use architecture::{
    Activation, Architecture, Attention, DeltaNet, DraftTensor, ExpertTensor, Experts, Family, FeedForward,
    Layer, LayerTensor, Mixer, NamedTensor, Rope, RopePairing, RopeScaling, TensorRole,
};
pub use chat::{ChatMessage, ChatOptions, ChatTemplate};
pub use error::ModelError;
pub use line_up::LineUpModel;
pub use model::Model;
pub use tensors::{Skipped, Tensors};
pub use text::{Text, TextError};
