//! Evaluation of models: how well a model, as it is stored and computed here, predicts a text, and how far two ways of
//! computing are apart. And models of real shape with random weights, for measurements.

mod divergence;
mod perplexity;
pub mod synth;

pub use divergence::{Divergence, DivergenceProgress, divergence};
pub use perplexity::{Perplexity, PerplexityError, PerplexityOptions, Progress, perplexity};
