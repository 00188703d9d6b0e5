//! One request's answer, token by token.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::EngineError;
use crate::outbox::Outbox;

/// Something that happened in a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A token of a choice. Stop tokens are not among them.
    Token {
        /// The choice, from 0.
        choice: u32,
        /// The token.
        token: u32,
        /// Natural logarithm of its probability before temperature, penalties and filters, if asked for.
        logprob: Option<f32>,
        /// The likeliest tokens at this place and their log-probabilities, best first; as many as were asked for.
        alternatives: Vec<(u32, f32)>,
    },
    /// A choice is complete. Choices that the caller has ended have no such step.
    Finished {
        /// The choice, from 0.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// All choices are complete; the last step.
    Done {
        /// What it took.
        stats: SessionStats,
    },
}

/// Why a choice is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced a stop token.
    Stop,
    /// The limit of tokens was reached.
    Length,
}

/// What a session took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that did not have to be computed again.
    pub cached_tokens: usize,
    /// Tokens that were handed out, all choices together.
    pub generated_tokens: usize,
    /// Tokens that were guessed and fed to be checked, all choices together.
    pub drafted: usize,
    /// Those of them that were right.
    pub accepted: usize,
    /// Those that were right and came from the model's draft head.
    pub head_accepted: usize,
    /// From the request to its first step.
    pub queued: Duration,
    /// From its first step to its first token.
    pub prefill: Duration,
    /// From its first token to its end.
    pub decode: Duration,
    /// Its part of the engine's working time: each step's time, shared among sessions by their tokens in it.
    pub busy: Duration,
}

/// A running request. Dropping it cancels it: the next step does not compute it.
#[derive(Debug)]
pub struct Session {
    outbox: Arc<Outbox>,
    generated: usize,
    over: bool,
}

impl Session {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox, generated: 0, over: false }
    }

    /// The next step; `None` after the last one or an error. The waker of `context` is woken when there is one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Step, EngineError>>> {
        while !self.over {
            match self.outbox.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(item) => {
                    if let Some(item) = self.accept(item) {
                        return Poll::Ready(Some(item));
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    /// Waits for the next step; `None` after the last one or an error.
    pub fn next_blocking(&mut self) -> Option<Result<Step, EngineError>> {
        while !self.over {
            let item = self.outbox.wait();
            if let Some(item) = self.accept(item) {
                return Some(item);
            }
        }
        None
    }

    /// Ends one choice, because a stop string was met, say: it is not computed from the next step on, and no more of
    /// it is handed out.
    pub fn end_choice(&mut self, choice: u32) {
        self.outbox.end_choice(choice);
    }

    /// Keeps the books; `None` for what belongs to an ended choice.
    fn accept(&mut self, item: Result<Step, EngineError>) -> Option<Result<Step, EngineError>> {
        match item {
            Ok(Step::Token { choice, .. } | Step::Finished { choice, .. })
                if self.outbox.is_ended(choice) =>
            {
                None
            }
            Ok(Step::Token { .. }) => {
                self.generated += 1;
                Some(item)
            }
            Ok(Step::Finished { .. }) => Some(item),
            // The engine may have run ahead of an ended choice; what counts is what was handed out.
            Ok(Step::Done { stats }) => {
                self.over = true;
                Some(Ok(Step::Done { stats: SessionStats { generated_tokens: self.generated, ..stats } }))
            }
            Err(_) => {
                self.over = true;
                Some(item)
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.outbox.cancel();
    }
}
