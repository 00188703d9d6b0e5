//! What can go wrong between a request's text and the model's tokens.

use thiserror::Error;

use crate::tokenizer::TokenizerError;

/// Text that cannot become a prompt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model has no chat template.
    #[error(
        "this is a base model without a chat template: it continues text and does not answer messages. \
         Use `nearfield run` or the completions API, or take an instruction-tuned model"
    )]
    NoChatTemplate,
    /// The model's chat template cannot be used.
    #[error(
        "the model's chat template cannot be used: {problem}. Use `nearfield run` or the completions API"
    )]
    BadTemplate {
        /// What is wrong with it.
        problem: String,
    },
    /// The template refuses the conversation.
    #[error("the model's chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template failed.
    #[error("the model's chat template failed on this conversation: {problem}")]
    Render {
        /// What happened and where.
        problem: String,
    },
    /// The template wrote too much.
    #[error("the prompt is longer than {limit} bytes")]
    PromptTooLong {
        /// The most bytes that are accepted.
        limit: usize,
    },
    /// A template option that cannot be given.
    #[error("the template option {name:?} {problem}")]
    TemplateOption {
        /// Its name.
        name: String,
        /// Why not.
        problem: String,
    },
    /// The model cannot fill in the middle.
    #[error(
        "this model has no fill-in-the-middle tokens, so it cannot complete text in front of a suffix; \
         leave the suffix out or take a code model such as qwen2.5-coder"
    )]
    NoFillInTheMiddle,
    /// The tokenizer refuses the text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
