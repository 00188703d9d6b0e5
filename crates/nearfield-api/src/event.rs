//! What a backend says while it answers.

use std::time::Duration;

use serde_json::Value;

use crate::{Opaque, Usage};

/// One step of an answer. A stream is `Started`, any number of `Delta`s, one `Finished` for each choice, and `Done`;
/// or it ends early with an error. A stream that stops without `Done` or an error was cut.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The backend has accepted the request and is about to produce tokens.
    Started {
        /// The model that really answers, as the backend names it.
        model: String,
        /// What computes the answer, when it is the local engine.
        engine: Option<EngineFacts>,
    },
    /// More text of one choice; always whole characters. The text may be empty when a token yields none yet.
    Delta {
        /// Which answer, from 0.
        choice: u32,
        /// The text.
        text: String,
        /// One entry for each token of this delta, when they were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// What the model says instead of an answer.
    Refusal {
        /// Which answer, from 0.
        choice: u32,
        /// More of its text.
        text: String,
    },
    /// More of what the model thinks before or between the parts of its answer.
    Reasoning {
        /// Which answer, from 0.
        choice: u32,
        /// More of the text that is shown; may be empty.
        text: String,
        /// What must come back with the conversation, unread. It ends a piece of reasoning.
        opaque: Option<Opaque>,
    },
    /// More of a call of a tool. The first event of a call has its name; its arguments are those of all its events,
    /// joined.
    ToolCall {
        /// Which answer, from 0.
        choice: u32,
        /// Which call of the answer, from 0.
        index: u32,
        /// The call's id, in its first event.
        id: Option<String>,
        /// The tool's name, in its first event.
        name: Option<String>,
        /// More of the arguments' JSON text.
        arguments: String,
        /// What must come back with the call, unread.
        opaque: Option<Opaque>,
    },
    /// A part of the answer that only the backend's own dialect has, such as what its own tools found.
    Other {
        /// Which answer, from 0.
        choice: u32,
        /// The dialect that it belongs to.
        dialect: crate::Dialect,
        /// The part, or a piece of one.
        value: Value,
    },
    /// One choice is complete.
    Finished {
        /// Which answer, from 0.
        choice: u32,
        /// Why it ended.
        reason: FinishReason,
    },
    /// The whole answer is complete.
    Done {
        /// What it took.
        usage: Usage,
        /// What it cost this machine, when the local engine computed it.
        work: Option<Work>,
    },
}

/// What an answer of the local engine can be replayed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFacts {
    /// The version and kind of its arithmetic: the same version gives the same bits on every machine.
    pub numerics: String,
    /// The kernels that ran. They change speed, not bits.
    pub kernels: String,
    /// The seed of its sampling: the caller's, or the one that was drawn.
    pub seed: u64,
}

/// What an answer took of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// The answer's share of the time that the engine computed.
    pub busy: Duration,
    /// Its share of the energy that the processor used, where that can be measured.
    pub energy_joules: Option<f64>,
    /// Tokens that were guessed ahead to be checked, all choices together.
    pub drafted: u64,
    /// Those of them that were right: steps that the answer was spared.
    pub accepted: u64,
    /// Those that were right and came from a draft head of the model.
    pub accepted_of_head: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// The token limit was reached.
    Length,
    /// The provider withheld the answer.
    ContentFilter,
    /// The model calls tools.
    ToolCalls,
    /// The model refuses.
    Refusal,
    /// The provider paused a long answer of its own tools; sent back as it is, it goes on.
    Paused,
}

impl FinishReason {
    /// The name on the wire of OpenAI's dialect.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            // A paused answer is as incomplete as one that met its limit.
            Self::Length | Self::Paused => "length",
            Self::ContentFilter | Self::Refusal => "content_filter",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// A token's log probability and its most likely alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's text; a token that ends inside a character shows replacement characters.
    pub token: String,
    /// The token's exact bytes, where the backend knows them.
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability before temperature and filters.
    pub logprob: f32,
    /// The most likely tokens at this place, best first.
    pub alternatives: Vec<TokenAlternative>,
}

/// One alternative of a [`TokenLogprob`].
#[derive(Clone, Debug, PartialEq)]
pub struct TokenAlternative {
    /// The token's text.
    pub token: String,
    /// The token's exact bytes, where the backend knows them.
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}
