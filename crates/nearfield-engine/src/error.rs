//! What can go wrong in the engine.

use std::time::Duration;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Prompt and answer do not fit the context.
    #[error(
        "the prompt has {prompt} tokens and asks for {wanted} more, but the context holds {limit}; shorten the prompt, \
         ask for fewer tokens, or raise the context with --context"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to be generated that were asked for (at least 1).
        wanted: usize,
        /// Positions of the context.
        limit: usize,
    },
    /// Every slot is taken and the queue is full, or waiting took too long.
    #[error("the engine is busy: {running} requests are running; try again in {} s", retry_after.as_secs().max(1))]
    Overloaded {
        /// Requests that run now.
        running: usize,
        /// When a slot is likely to be free.
        retry_after: Duration,
    },
    /// More choices than can ever run at once.
    #[error("{choices} choices were asked for, but at most {slots} can run at once; ask for fewer")]
    TooManyChoices {
        /// Choices that were asked for.
        choices: usize,
        /// Slots of the engine.
        slots: usize,
    },
    /// The memory plan does not fit.
    #[error(
        "{needed} bytes of memory are needed but {available} are available; use a smaller --context or fewer slots"
    )]
    OutOfMemory {
        /// Bytes that the plan asks for.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A token id that the model does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    /// A sequence of a recurrent model was cut, and the state of that point is not there.
    #[error(
        "the sequence was cut at {length} tokens without the recurrent state of that point; restore a snapshot instead, \
         or start it anew"
    )]
    LostState {
        /// Tokens of the sequence.
        length: usize,
    },
    /// The model computed something that is not a number.
    #[error("the model produced a logit that is not finite at position {position}; the file may be damaged")]
    NotFinite {
        /// Position of the token that was fed.
        position: usize,
    },
    /// A sampling setting outside its range.
    #[error("{name} must be {expected}")]
    InvalidSetting {
        /// The setting.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// The model file cannot be used.
    #[error(transparent)]
    Model(#[from] nearfield_model::ModelError),
    /// The environment names kernels that cannot run here.
    #[error(transparent)]
    Kernels(#[from] nearfield_kernels::UnsupportedKernels),
    /// The folder for beginnings of conversations cannot be used.
    #[error("{}: {source}; choose another folder or leave prefix_cache_files out", folder.display())]
    PrefixFiles {
        /// The folder.
        folder: std::path::PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The system refused a thread or memory.
    #[error("the system refused a thread or memory: {0}")]
    Thread(#[from] std::io::Error),
    /// The engine's thread is gone.
    #[error("the engine has stopped; load the model again")]
    Stopped,
}
