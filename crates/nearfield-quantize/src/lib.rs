//! Evaluation of models: how well a model, as it is stored and computed here, predicts a text.

mod perplexity;

pub use perplexity::{Perplexity, PerplexityError, PerplexityOptions, Progress, perplexity};
