//! When guessing pays: how many drafted tokens each answer may have in the coming step.
//!
//! A drafted token takes a row of a step. Rows share the reading of the weights, so a few more cost little; what they
//! cost is measured, what they bring is learnt from the drafts so far, and as many are taken as make more of a second.
//! Nothing here changes what is picked.

mod cost;

use std::time::Instant;

use nearfield_model::Architecture;

use crate::drafter::{Drafter, MakeDrafter};
use crate::error::EngineError;
use crate::options::{Drafting, EngineOptions, Speculation};
use crate::runner::{DraftRow, Runner};
use crate::running::{Choice, Running};
use cost::{Offer, StepCost, take_always};

/// Most drafted tokens of all answers in one step.
const MOST_DRAFTED: usize = 15;

/// Most tokens that the draft head guesses at once for an answer: each comes from the one before.
const MOST_OF_HEAD: usize = 8;

/// Steps after which the draft head is tried again where it did not pay.
const TRIAL: usize = 48;

/// Largest number of rows in one step whose logits are computed.
pub(crate) fn logits_rows(options: &EngineOptions) -> usize {
    match options.speculation {
        Speculation::Off => options.slots,
        Speculation::Adaptive | Speculation::Always(_) => options.slots.max(1 + MOST_DRAFTED),
    }
}

/// Largest number of rows in one step that may have to be taken back, those before guesses included.
pub(crate) fn guessed_rows(options: &EngineOptions) -> usize {
    match options.speculation {
        Speculation::Off => 0,
        Speculation::Adaptive | Speculation::Always(_) => 2 * MOST_DRAFTED,
    }
}

/// Whether a model's draft head takes part.
pub(crate) fn asks_head(architecture: &Architecture, options: &EngineOptions) -> bool {
    let wanted = options.speculation != Speculation::Off && options.drafting != Drafting::LookUp;
    wanted && architecture.draft.is_some()
}

/// How often a drafted token was right, for guesses with little, some and much to speak for them.
#[derive(Clone, Copy, Debug)]
struct Acceptance {
    right: [f64; CLASSES],
    judged: [f64; CLASSES],
}

/// Kinds of guesses: from the text with little to much to speak for them, and of the draft head.
const CLASSES: usize = 5;

/// The draft head's guesses.
const HEAD: usize = CLASSES - 1;

impl Default for Acceptance {
    fn default() -> Self {
        // As if so many had been judged before: what is usual for texts.
        Self { right: [0.6, 1.2, 2.4, 3.6, 2.8], judged: [2.0, 2.0, 3.0, 4.0, 4.0] }
    }
}

impl Acceptance {
    const fn class(agreeing: usize) -> usize {
        match agreeing {
            0..=2 => 0,
            3..=5 => 1,
            6..=15 => 2,
            _ => 3,
        }
    }

    fn probability(&self, class: usize) -> f64 {
        self.right[class] / self.judged[class]
    }

    /// Takes in what became of a draft: so many tokens right, then one wrong, or none.
    fn learn(&mut self, class: usize, right: usize, wrong: bool) {
        self.right[class] += right as f64;
        self.judged[class] += right as f64 + f64::from(wrong);
        // What is long ago counts less.
        let excess = (self.judged[class] / 32.0).max(1.0);
        self.right[class] /= excess;
        self.judged[class] /= excess;
    }
}

/// One choice's guesses.
pub(crate) struct Drafts {
    drafter: Box<dyn Drafter>,
    acceptance: Acceptance,
    /// What the drafter offers for the coming step.
    offered: Vec<u32>,
    class: usize,
    /// The first guess from the text, and its kind, where the draft head's were preferred.
    passed_over: Option<(usize, u32)>,
    /// Steps since the draft head was asked last.
    unasked: usize,
}

impl Drafts {
    /// Asks the drafter for the coming step.
    fn offer(&mut self, most: usize, vocabulary: usize) {
        self.offered.clear();
        if most > 0 {
            self.class = Acceptance::class(self.drafter.draft(most, &mut self.offered));
        }
        let known =
            self.offered.iter().take(most).take_while(|token| (**token as usize) < vocabulary).count();
        self.offered.truncate(known);
    }

    /// Leaves the coming step to the draft head.
    fn prefer_head(&mut self) {
        self.passed_over = self.offered.first().map(|token| (self.class, *token));
        self.offered.clear();
        self.class = HEAD;
    }

    /// Whether the guesses are the draft head's.
    pub(crate) fn come_from_head(&self) -> bool {
        self.class == HEAD
    }

    /// The first guesses.
    pub(crate) fn first(&self, count: usize) -> &[u32] {
        &self.offered[..count]
    }

    /// Takes in the tokens picked in a step, and judges the guesses by them.
    pub(crate) fn picked(&mut self, tokens: &[u32], fed: usize) {
        // Guesses that were not fed are judged where the truth is known: that is how it is learnt, at no cost, that
        // guessing pays again.
        let judged = tokens.iter().zip(&self.offered).take(fed.max(1));
        let right = judged.clone().take_while(|(token, guess)| token == guess).count();
        self.acceptance.learn(self.class, right, right < judged.len());
        if let (Some((class, guess)), Some(token)) = (self.passed_over.take(), tokens.first()) {
            self.acceptance.learn(class, usize::from(guess == *token), guess != *token);
        }
        self.offered.clear();
        self.drafter.extend(tokens);
    }
}

/// Deals out drafts.
pub(crate) struct Speculator {
    setting: Speculation,
    /// Whether the text is looked at.
    looks_up: bool,
    /// Whether the draft head is asked.
    asks_head: bool,
    /// How often its first guesses were right lately, of all answers.
    head: f64,
    make: MakeDrafter,
    cost: StepCost,
    /// Most logits rows in a step.
    logits_rows: usize,
    vocabulary: usize,
}

impl Speculator {
    pub(crate) fn new(architecture: &Architecture, options: &EngineOptions, make: MakeDrafter) -> Self {
        Self {
            setting: options.speculation,
            looks_up: options.drafting != Drafting::Head,
            asks_head: asks_head(architecture, options),
            head: Acceptance::default().probability(HEAD),
            make,
            cost: StepCost::default(),
            logits_rows: logits_rows(options),
            vocabulary: architecture.vocabulary_size,
        }
    }

    /// Gives each choice of a session its drafter.
    pub(crate) fn equip(&self, session: &mut Running) {
        if self.setting == Speculation::Off {
            return;
        }
        let Running { request, choices, .. } = session;
        let mut acceptance = Acceptance::default();
        acceptance.right[HEAD] = self.head * acceptance.judged[HEAD];
        for choice in choices {
            choice.drafts = Some(Drafts {
                drafter: (self.make)(request, choice.index),
                acceptance,
                offered: Vec::new(),
                class: 0,
                passed_over: None,
                unasked: 0,
            });
        }
    }

    /// Adds drafts to a step in which `rows` have been dealt out and `free` more are possible.
    ///
    /// # Errors
    /// When the draft head cannot be asked, which is a fault of ours.
    pub(crate) fn deal(
        &mut self,
        runner: &mut Runner<'_>,
        running: &mut [Running],
        rows: usize,
        free: usize,
    ) -> Result<Dealt, EngineError> {
        if self.setting == Speculation::Off {
            return Ok(Dealt::default());
        }
        let mut decoding = 0;
        let (mut offers, mut choices) = (Vec::new(), Vec::new());
        for session in running {
            let Running { request, max_tokens, choices: all, .. } = session;
            for choice in all.iter_mut().filter(|choice| choice.is_decoding(request)) {
                decoding += 1;
                let most = MOST_DRAFTED.min(max_tokens.saturating_sub(choice.generated + 1));
                if let Some(offer) = choice.drafts.as_mut().and_then(|drafts| self.offer(drafts, most)) {
                    offers.push(offer);
                    choices.push(choice);
                }
            }
        }
        let free = free.min(MOST_DRAFTED).min(self.logits_rows.saturating_sub(decoding));
        match self.setting {
            Speculation::Off => {}
            Speculation::Always(depth) => take_always(&mut offers, free, depth),
            Speculation::Adaptive => {
                self.cost.take_fairly(&mut offers, rows, decoding, free);
                try_head(&mut offers, &mut choices, free);
            }
        }
        let mut dealt = Dealt { rows: offers.iter().map(|offer| offer.taken).sum(), seconds: 0.0 };
        let mut asked: Vec<(&mut Choice, usize)> = choices
            .iter_mut()
            .zip(&offers)
            .filter(|(choice, _)| choice.drafts.as_ref().is_some_and(Drafts::come_from_head))
            .map(|(choice, offer)| (&mut **choice, offer.taken))
            .collect();
        let guesses = asked.iter().map(|(_, taken)| taken).sum();
        if guesses > 0 {
            let begun = Instant::now();
            ask_head(runner, &mut asked)?;
            dealt.seconds = begun.elapsed().as_secs_f64();
            self.cost.add_head(guesses, dealt.seconds);
        }
        for (choice, offer) in choices.into_iter().zip(&offers) {
            choice.feed_drafts(offer.taken);
        }
        Ok(dealt)
    }

    /// The better of what the text and the draft head offer for a choice's next tokens.
    fn offer(&mut self, drafts: &mut Drafts, most: usize) -> Option<Offer> {
        if self.looks_up {
            drafts.offer(most, self.vocabulary);
        }
        let text = drafts.offered.len();
        let text = (text > 0).then(|| Offer::new(drafts.acceptance.probability(drafts.class), text));
        let head = (self.asks_head && most > 0).then(|| {
            let probability = drafts.acceptance.probability(HEAD);
            self.head += (probability - self.head) / 32.0;
            Offer::new(probability, most.min(MOST_OF_HEAD)).at_cost(self.cost.head())
        });
        let (text, head) = match (text, head) {
            (Some(text), Some(head)) => (text, head),
            (None, Some(head)) => {
                drafts.prefer_head();
                return Some(head);
            }
            (text, None) => return text,
        };
        let by_promise = self.setting == Speculation::Adaptive;
        if by_promise && self.cost.promise(&head) > self.cost.promise(&text) {
            drafts.prefer_head();
            return Some(head);
        }
        Some(text)
    }

    /// Notes what a step of answers alone took.
    pub(crate) fn took(&mut self, rows: usize, seconds: f64) {
        self.cost.add(rows, seconds);
    }
}

/// What has been added to a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dealt {
    pub(crate) rows: usize,
    /// Seconds that the draft head took.
    pub(crate) seconds: f64,
}

/// Takes one guess of the draft head where it has not been asked for long: it may have begun to pay.
fn try_head(offers: &mut [Offer], choices: &mut [&mut Choice], free: usize) {
    let mut left = free.saturating_sub(offers.iter().map(|offer| offer.taken).sum());
    for (offer, choice) in offers.iter_mut().zip(choices) {
        let Some(drafts) = choice.drafts.as_mut().filter(|drafts| drafts.come_from_head()) else { continue };
        drafts.unasked = if offer.taken > 0 { 0 } else { drafts.unasked + 1 };
        if drafts.unasked >= TRIAL && left > 0 {
            (offer.taken, drafts.unasked) = (1, 0);
            left -= 1;
        }
    }
}

/// Lets the draft head guess so many tokens for each choice, all choices' next ones together.
fn ask_head(runner: &mut Runner<'_>, asked: &mut [(&mut Choice, usize)]) -> Result<(), EngineError> {
    let mut previous = vec![None; asked.len()];
    for ahead in 0..MOST_OF_HEAD {
        let (mut rows, mut guesses) = (Vec::new(), Vec::new());
        for ((choice, taken), previous) in asked.iter_mut().zip(&mut previous) {
            let Choice { sequence, fed, drafts: Some(drafts), .. } = &mut **choice else { continue };
            if let Some(token) = drafts.offered.last().or(fed.last()).copied().filter(|_| *taken > ahead) {
                rows.push(DraftRow { sequence, token, ahead, previous: *previous });
                *previous = Some(guesses.len());
                guesses.push(&mut drafts.offered);
            }
        }
        if rows.is_empty() {
            break;
        }
        let logits = runner.draft(&mut rows)?;
        for (row, guesses) in guesses.into_iter().enumerate() {
            guesses.push(likeliest(logits.row(row)));
        }
    }
    Ok(())
}

/// The likeliest token; of equal ones the lower.
fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().zip(0..).max_by(|(a, i), (b, j)| a.total_cmp(b).then(j.cmp(i)));
    best.map_or(0, |(_, token)| token)
}

#[cfg(test)]
mod tests;
