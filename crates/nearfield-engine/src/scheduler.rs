//! The engine's loop: every step joins the next token of all answers with a slice of the prompts.

mod sharing;

use std::time::{Duration, Instant};

use nearfield_kernels::PAGE_POSITIONS;

use crate::admission::{Admission, Job};
use crate::cache::CacheDomain;
use crate::counters::Counters;
use crate::error::EngineError;
use crate::outlook::{Ending, Outlook};
use crate::pace::Pace;
use crate::plan::Plan;
use crate::runner::{Chunk, LogitsWanted, Runner};
use crate::running::{Choice, Running};
use crate::sampler::Sampler;
use crate::speculation::{Drafts, Speculator};

/// Everything that the engine's thread works with.
pub(crate) struct Scheduler<'a> {
    runner: Runner<'a>,
    admission: &'a Admission,
    sampler: Sampler,
    speculator: Speculator,
    running: Vec<Running>,
    /// Whether requests share blocks with later ones.
    shares: bool,
    /// Requests begun.
    begun: u64,
    /// Most rows in a step.
    rows: usize,
    counters: Counters,
    pace: Pace,
    /// Tokens of an answer, of late.
    answer: Option<f64>,
}

impl<'a> Scheduler<'a> {
    pub(crate) fn new(
        runner: Runner<'a>,
        admission: &'a Admission,
        plan: &Plan,
        speculator: Speculator,
        shares: bool,
    ) -> Self {
        Self {
            sampler: Sampler::new(runner.kernels()),
            runner,
            admission,
            speculator,
            running: Vec::new(),
            shares,
            begun: 0,
            rows: plan.rows,
            counters: Counters::default(),
            pace: Pace::default(),
            answer: None,
        }
    }

    /// Works until the account is closed.
    pub(crate) fn run(mut self) {
        while let Some(jobs) = self.admission.take(self.running.is_empty()) {
            for job in jobs {
                self.begin(job);
            }
            if self.step().is_err() {
                // Requests are checked before they come here, so this is a fault of the engine itself: the sessions
                // learn that it has stopped.
                return;
            }
        }
    }

    /// Opens a sequence for each choice of an admitted job.
    fn begin(&mut self, job: Job) {
        let positions = job.pages * PAGE_POSITIONS;
        self.begun += 1;
        // Without a cache of beginnings, the choices of one request still share its prompt.
        let domain =
            if self.shares { job.request.cache_domain.clone() } else { CacheDomain::of_request(self.begun) };
        let sequences: Vec<_> =
            (0..job.request.choices).map_while(|_| self.runner.open_in(domain.clone(), positions)).collect();
        if sequences.len() == job.request.choices as usize {
            let mut session = Running::new(job, sequences);
            self.speculator.equip(&mut session);
            self.running.push(session);
            return;
        }
        // The account admits no more than the cache holds. Were it wrong, the request would end as stopped.
        for sequence in sequences {
            self.runner.close(sequence);
        }
        self.admission.release(job.request.choices as usize, job.pages);
    }

    /// Drops what was cancelled or ended, then computes one step of the rest. Returns the rows computed.
    pub(crate) fn step(&mut self) -> Result<usize, EngineError> {
        self.admission.sweep();
        self.heed_callers();
        self.reuse();
        let rows = self.share_rows();
        if rows == 0 {
            return Ok(0);
        }
        let free = self.rows.saturating_sub(rows);
        let dealt = self.speculator.deal(&mut self.runner, &mut self.running, rows, free)?;
        let rows = rows + dealt.rows;
        let read: usize = self.running.iter().map(Running::rows_read).sum();
        let answers = self.running.iter().map(Running::answers).sum();
        self.count(rows);
        let begun = Instant::now();
        self.compute()?;
        let computed = begun.elapsed();
        let taken = computed + Duration::from_secs_f64(dealt.seconds);
        for session in &mut self.running {
            let part: usize = session.choices.iter().map(|choice| choice.rows).sum();
            session.stats.busy += taken.mul_f64(part as f64 / rows as f64);
        }
        if read == 0 {
            self.speculator.took(rows, computed.as_secs_f64());
        }
        self.pace.took(answers, read, taken.as_secs_f64());
        self.remove_finished();
        self.foretell();
        Ok(rows)
    }

    /// Marks choices that their callers have cancelled or ended.
    fn heed_callers(&mut self) {
        for session in &mut self.running {
            let outbox = session.publisher.outbox();
            let cancelled = outbox.is_cancelled();
            for choice in &mut session.choices {
                choice.over |= cancelled || outbox.is_ended(choice.index);
            }
        }
        self.remove_finished();
    }

    /// Closes choices that are over, and sessions that have no other.
    fn remove_finished(&mut self) {
        let (runner, admission) = (&mut self.runner, self.admission);
        for session in &mut self.running {
            for choice in session.choices.extract_if(.., |choice| choice.over) {
                if choice.generated > 0 {
                    let tokens = choice.generated as f64;
                    let answer = self.answer.get_or_insert(tokens);
                    *answer += (tokens - *answer) / 8.0;
                }
                runner.close(choice.sequence);
                admission.release(1, session.pages);
            }
        }
        for session in self.running.extract_if(.., |session| session.choices.is_empty()) {
            session.finish();
        }
    }

    /// Takes over what is known of prompts. The first choice of a request computes the prompt, the others wait for it.
    fn reuse(&mut self) {
        for session in &mut self.running {
            let prompt = &session.request.tokens;
            let mut first_reads = false;
            for (place, choice) in session.choices.iter_mut().enumerate() {
                let fed = choice.sequence.length();
                // A prompt of less than a block has nothing to share.
                choice.waits = place > 0 && first_reads && prompt.len() > PAGE_POSITIONS;
                if choice.waits || fed >= prompt.len() {
                    continue;
                }
                let taken = self.runner.resume(&mut choice.sequence, &prompt[fed..]);
                if choice.index == 0 {
                    session.stats.cached_tokens += taken;
                }
                first_reads |= place == 0;
            }
        }
    }

    /// Runs the graph over the rows dealt out, and picks a token for each sequence whose prompt is complete.
    fn compute(&mut self) -> Result<(), EngineError> {
        let mut chunks = Vec::new();
        for session in &mut self.running {
            let prompt = &session.request.tokens;
            for choice in session.choices.iter_mut().filter(|choice| choice.rows > 0) {
                let fed = choice.sequence.length();
                let (tokens, logits) = if fed < prompt.len() {
                    let last = fed + choice.rows == prompt.len();
                    let wanted = if last { LogitsWanted::Last } else { LogitsWanted::None };
                    (&prompt[fed..fed + choice.rows], wanted)
                } else {
                    let guessed = choice.fed.len() > 1;
                    (&choice.fed[..], if guessed { LogitsWanted::Guessed } else { LogitsWanted::All })
                };
                chunks.push(Chunk { sequence: &mut choice.sequence, tokens, logits });
            }
        }
        let logits = self.runner.step(&mut chunks)?;
        drop(chunks);
        let mut first = 0;
        for session in &mut self.running {
            let prompt = session.request.tokens.len();
            for index in 0..session.choices.len() {
                let choice = &session.choices[index];
                if choice.rows > 0 && choice.sequence.length() >= prompt {
                    // The end of a prompt has one row of logits, what is fed of an answer one each.
                    let count = choice.fed.len().max(1);
                    let before = session.stats;
                    let of_head = choice.drafts.as_ref().is_some_and(Drafts::come_from_head);
                    session.pick(index, &logits, first..first + count, &mut self.sampler);
                    self.counters.drafted += count as u64 - 1;
                    self.counters.accepted += (session.stats.accepted - before.accepted) as u64;
                    self.counters.head_drafted += if of_head { count as u64 - 1 } else { 0 };
                    let right = session.stats.head_accepted - before.head_accepted;
                    self.counters.head_accepted += right as u64;
                    first += count;
                }
            }
        }
        self.settle()?;
        self.share_blocks();
        // A session with a logit that is not finite has ended with an error.
        self.end_failed();
        Ok(())
    }

    /// Takes back the guesses that were wrong.
    fn settle(&mut self) -> Result<(), EngineError> {
        for choice in self.running.iter_mut().flat_map(|session| &mut session.choices) {
            if let Some(length) = choice.settles.take() {
                self.runner.settle(&mut choice.sequence, length)?;
            }
        }
        Ok(())
    }

    /// Lets later requests have what this step has completed.
    fn share_blocks(&mut self) {
        for session in &mut self.running {
            for choice in session.choices.iter_mut().filter(|choice| choice.rows > 0) {
                self.runner.share(&mut choice.sequence);
            }
        }
        self.counters.prefix = self.runner.prefix_counters();
        self.admission.set_counters(self.counters);
    }

    /// Notes what the coming step is made of.
    fn count(&mut self, rows: usize) {
        let counters = &mut self.counters;
        let mut decoding = 0;
        for session in &self.running {
            for choice in session.choices.iter().filter(|choice| choice.rows > 0) {
                if choice.prompt_left(&session.request) > 0 {
                    counters.prompt_rows += choice.rows as u64;
                    counters.prompt_pieces += 1;
                } else {
                    decoding += 1;
                }
            }
        }
        counters.steps += 1;
        counters.rows += rows as u64;
        counters.most_rows = counters.most_rows.max(rows);
        counters.most_decoding = counters.most_decoding.max(decoding);
    }

    fn end_failed(&mut self) {
        let (runner, admission) = (&mut self.runner, self.admission);
        for session in self.running.extract_if(.., |session| session.failed_at.is_some()) {
            let position = session.failed_at.unwrap_or_default();
            for choice in session.choices {
                runner.close(choice.sequence);
                admission.release(1, session.pages);
            }
            session.publisher.finish(Err(EngineError::NotFinite { position }));
        }
    }

    /// Notes for those who are refused how long what runs is likely to go on.
    fn foretell(&mut self) {
        let decoding = self.running.iter().map(|session| session.choices.len()).sum();
        let outlook = Outlook {
            running: Vec::with_capacity(decoding),
            step: self.pace.answering(decoding).unwrap_or(0.0),
            prompt_row: self.pace.prompt_row(),
            answer: self.answer,
        };
        let ending = |session: &Running, choice: &Choice| Ending {
            seconds: choice.prompt_left(&session.request) as f64 * outlook.prompt_row
                + outlook.answer_seconds(choice.generated, session.max_tokens),
            slots: 1,
            pages: session.pages,
        };
        let running = self
            .running
            .iter()
            .flat_map(|session| session.choices.iter().map(move |choice| ending(session, choice)));
        let running = running.collect();
        self.admission.set_outlook(Outlook { running, ..outlook });
    }
}

#[cfg(test)]
mod tests;
