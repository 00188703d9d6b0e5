//! Sessions that have been admitted, as the engine's thread sees them.

use std::ops::Range;
use std::time::Instant;

use crate::admission::Job;
use crate::cache::Sequence;
use crate::outbox::Publisher;
use crate::request::Generate;
use crate::runner::Logits;
use crate::sampler::{History, Sampler, draw};
use crate::session::{FinishReason, SessionStats, Step};
use crate::speculation::Drafts;

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
    /// What is fed once the prompt is in the cache: the token picked last, and drafts of those to follow.
    pub(crate) fed: Vec<u32>,
    /// Guesses at the tokens to follow.
    pub(crate) drafts: Option<Drafts>,
    /// Positions of its sequence that stay after the step, when guesses were among them.
    pub(crate) settles: Option<usize>,
    pub(crate) generated: usize,
    /// Tokens that it had when a prompt held it up last.
    pub(crate) held_at: Option<usize>,
    /// Whether it leaves the prompt to the first choice, to share its work.
    pub(crate) waits: bool,
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

    /// Adds the first guesses to what is fed.
    pub(crate) fn feed_drafts(&mut self, count: usize) {
        if let Some(drafts) = &self.drafts {
            self.fed.extend_from_slice(drafts.first(count));
            self.rows += count;
        }
    }

    /// Whether the prompt is complete, and a token of the answer is to be fed.
    pub(crate) fn is_decoding(&self, request: &Generate) -> bool {
        !self.over && self.prompt_left(request) == 0
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
                Choice {
                    index,
                    sequence,
                    fed: Vec::new(),
                    drafts: None,
                    settles: None,
                    generated: 0,
                    held_at: None,
                    waits: false,
                    rows: 0,
                    over: false,
                    history,
                }
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

    /// Choices of which a token of the answer is fed in the coming step.
    pub(crate) fn answers(&self) -> usize {
        self.choices.iter().filter(|choice| choice.rows > 0 && choice.is_decoding(&self.request)).count()
    }

    /// Rows of the prompt in the coming step.
    pub(crate) fn rows_read(&self) -> usize {
        let reading = self.choices.iter().filter(|choice| choice.prompt_left(&self.request) > 0);
        reading.map(|choice| choice.rows).sum()
    }

    /// Picks a choice's tokens from the logits of its rows in the step: the first row's token, and one more for each
    /// drafted token that is the one picked before it. What was fed beyond these is to be taken back.
    pub(crate) fn pick(
        &mut self,
        index: usize,
        logits: &Logits<'_>,
        rows: Range<usize>,
        sampler: &mut Sampler,
    ) {
        let drafted = rows.len() - 1;
        let first = self.choices[index].sequence.length() - drafted;
        let mut picked = Vec::with_capacity(rows.len());
        for (place, row) in rows.enumerate() {
            let Some(token) = self.pick_one(index, logits.row(row), first + place, sampler) else { break };
            picked.push(token);
            let choice = &self.choices[index];
            if choice.over || choice.fed.get(place + 1) != Some(&token) {
                break;
            }
        }
        let choice = &mut self.choices[index];
        let drafts = choice.fed.iter().skip(1);
        let accepted = picked.iter().zip(drafts).take_while(|(token, draft)| token == draft).count();
        choice.settles = (drafted > 0).then_some(first + accepted);
        self.stats.drafted += drafted;
        self.stats.accepted += accepted;
        if let Some(drafts) = &mut choice.drafts {
            self.stats.head_accepted += if drafts.come_from_head() { accepted } else { 0 };
            drafts.picked(&picked, drafted);
        }
        choice.fed.clear();
        choice.fed.extend(picked.last());
    }

    /// Picks and publishes the token at a position, by its logits. `None` if they are not finite.
    fn pick_one(
        &mut self,
        index: usize,
        logits: &[f32],
        position: usize,
        sampler: &mut Sampler,
    ) -> Option<u32> {
        let choice = &mut self.choices[index];
        let number = choice.index;
        let drawn = draw(self.seed, number, position as u64);
        let Some(token) = sampler.pick(logits, &self.request.sampling, &choice.history, drawn) else {
            self.failed_at = Some(position - 1);
            return None;
        };
        self.first_token.get_or_insert_with(Instant::now);
        if self.request.stop_tokens.contains(&token) {
            choice.over = true;
            self.publisher.push(Step::Finished { choice: number, reason: FinishReason::Stop });
            return Some(token);
        }
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
        Some(token)
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
