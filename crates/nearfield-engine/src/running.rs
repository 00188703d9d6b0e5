//! Sessions that have been admitted, as the engine's thread sees them.

use std::time::Instant;

use crate::admission::Job;
use crate::cache::Sequence;
use crate::outbox::Publisher;
use crate::request::Generate;
use crate::sampler::{History, Sampler, draw};
use crate::session::{FinishReason, SessionStats, Step};

/// A session that has been admitted.
pub(crate) struct Running {
    pub(crate) request: Generate,
    pub(crate) max_tokens: usize,
    pub(crate) pages: usize,
    pub(crate) publisher: Publisher,
    /// Those that go on.
    pub(crate) choices: Vec<Choice>,
    pub(crate) stats: SessionStats,
    /// Position of the token whose logits were not finite.
    pub(crate) failed_at: Option<usize>,
    seed: u64,
    started: Instant,
    first_token: Option<Instant>,
}

/// One continuation of a prompt.
pub(crate) struct Choice {
    pub(crate) index: u32,
    pub(crate) sequence: Sequence,
    /// The token to be fed once the prompt is in the cache.
    pub(crate) next: u32,
    pub(crate) generated: usize,
    /// Rows in the coming step.
    pub(crate) rows: usize,
    /// Set when the choice is complete.
    pub(crate) over: bool,
    history: History,
}

impl Choice {
    /// Tokens of the prompt that are not in the cache.
    pub(crate) fn prompt_left(&self, request: &Generate) -> usize {
        request.tokens.len().saturating_sub(self.sequence.length())
    }
}

impl Running {
    /// Starts a job with a sequence for each choice.
    pub(crate) fn new(job: Job, sequences: Vec<Sequence>) -> Self {
        let Job { request, max_tokens, pages, seed, publisher, submitted } = job;
        let choices = sequences
            .into_iter()
            .zip(0..)
            .map(|(sequence, index)| {
                let history = History::new(&request);
                Choice { index, sequence, next: 0, generated: 0, rows: 0, over: false, history }
            })
            .collect();
        let started = Instant::now();
        let stats = SessionStats {
            prompt_tokens: request.tokens.len(),
            queued: started - submitted,
            ..SessionStats::default()
        };
        Self {
            request,
            max_tokens,
            pages,
            publisher,
            choices,
            stats,
            failed_at: None,
            seed,
            started,
            first_token: None,
        }
    }

    /// Picks a choice's next token from its logits.
    pub(crate) fn pick(&mut self, index: usize, logits: &[f32], sampler: &mut Sampler) {
        let choice = &mut self.choices[index];
        let (number, position) = (choice.index, choice.sequence.length());
        let drawn = draw(self.seed, number, position as u64);
        let Some(token) = sampler.pick(logits, &self.request.sampling, &choice.history, drawn) else {
            self.failed_at = Some(position - 1);
            return;
        };
        self.first_token.get_or_insert_with(Instant::now);
        if self.request.stop_tokens.contains(&token) {
            choice.over = true;
            self.publisher.push(Step::Finished { choice: number, reason: FinishReason::Stop });
            return;
        }
        choice.next = token;
        choice.generated += 1;
        choice.history.add(token);
        choice.over = choice.generated == self.max_tokens;
        let over = choice.over;
        let (logprob, alternatives) = match self.request.logprobs {
            None => (None, Vec::new()),
            Some(count) => {
                let (logprob, alternatives) = sampler.log_probabilities(logits, token, count.into());
                (Some(logprob), alternatives)
            }
        };
        self.publisher.push(Step::Token { choice: number, token, logprob, alternatives });
        if over {
            self.publisher.push(Step::Finished { choice: number, reason: FinishReason::Length });
        }
    }

    /// Ends a session whose choices are all over.
    pub(crate) fn finish(mut self) {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        self.stats.prefill = first - self.started;
        self.stats.decode = now - first;
        self.publisher.finish(Ok(Step::Done { stats: self.stats }));
    }
}
