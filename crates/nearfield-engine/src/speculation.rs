//! When guessing pays: how many drafted tokens each answer may have in the coming step.
//!
//! A drafted token takes a row of a step. Rows share the reading of the weights, so a few more cost little; what they
//! cost is measured, what they bring is learnt from the drafts so far, and as many are taken as make more of a second.
//! Nothing here changes what is picked.

use nearfield_model::Architecture;

use crate::drafter::{Drafter, MakeDrafter};
use crate::options::{EngineOptions, Speculation};
use crate::recurrent::is_recurrent;
use crate::running::Running;

/// Most drafted tokens of all answers in one step.
const MOST_DRAFTED: usize = 15;

/// A row's cost beside that of a step of one, until it has been measured.
const FIRST_GUESS: f64 = 0.22;

/// The gain below which a step is left alone: less is lost in the noise.
const LEAST_GAIN: f64 = 1.05;

/// By how much drafts may lengthen the steps of those who gain nothing by them.
const FAIR: f64 = 0.25;

/// Largest number of rows in one step whose logits are computed.
pub(crate) fn logits_rows(architecture: &Architecture, options: &EngineOptions) -> usize {
    match setting(architecture, options) {
        Speculation::Off => options.slots,
        Speculation::Adaptive | Speculation::Always(_) => options.slots.max(1 + MOST_DRAFTED),
    }
}

/// Recurrent models cannot take a wrong guess back, so they are not guessed for.
fn setting(architecture: &Architecture, options: &EngineOptions) -> Speculation {
    if is_recurrent(architecture) { Speculation::Off } else { options.speculation }
}

/// What a step of so many rows takes: a line through the steps so far, the latest counting most.
#[derive(Debug, Default)]
struct StepCost {
    weight: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    product: f64,
}

impl StepCost {
    /// Takes in a step.
    fn add(&mut self, rows: usize, seconds: f64) {
        // The machine has other work too: a step that took many times what it should says nothing about rows.
        let seconds =
            if self.weight > 4.0 { seconds.min(3.0 * self.seconds_of(rows as f64)) } else { seconds };
        let rows = rows as f64;
        for sum in
            [&mut self.weight, &mut self.rows, &mut self.rows_squared, &mut self.seconds, &mut self.product]
        {
            *sum *= 0.97;
        }
        self.weight += 1.0;
        self.rows += rows;
        self.rows_squared += rows * rows;
        self.seconds += seconds;
        self.product += rows * seconds;
    }

    /// Seconds of a further row. Where steps have hardly differed in rows, the first guess decides.
    fn slope(&self) -> f64 {
        if self.weight == 0.0 {
            return FIRST_GUESS;
        }
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let one = seconds / (1.0 + FIRST_GUESS * (rows - 1.0));
        let variance = (self.rows_squared - rows * self.rows).max(0.0);
        let covariance = self.product - rows * self.seconds;
        let trust = 4.0;
        ((covariance + trust * FIRST_GUESS * one) / (variance + trust)).max(0.02 * one)
    }

    /// Seconds of a step.
    fn seconds_of(&self, rows: f64) -> f64 {
        if self.weight == 0.0 {
            return 1.0 + FIRST_GUESS * (rows - 1.0);
        }
        let (mean_rows, mean) = (self.rows / self.weight, self.seconds / self.weight);
        // A measured slope may be too steep to be true near one row.
        (mean + self.slope() * (rows - mean_rows)).max(0.2 * mean)
    }
}

/// How often a drafted token was right, for guesses with little, some and much to speak for them.
#[derive(Clone, Copy, Debug)]
struct Acceptance {
    right: [f64; CLASSES],
    judged: [f64; CLASSES],
}

const CLASSES: usize = 4;

impl Default for Acceptance {
    fn default() -> Self {
        // As if so many had been judged before: what is usual for texts.
        Self { right: [0.6, 1.2, 2.4, 3.6], judged: [2.0, 2.0, 3.0, 4.0] }
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
        self.offered.clear();
        self.drafter.extend(tokens);
    }
}

/// Deals out drafts.
pub(crate) struct Speculator {
    setting: Speculation,
    make: MakeDrafter,
    cost: StepCost,
    /// Most logits rows in a step.
    logits_rows: usize,
    vocabulary: usize,
}

/// The guesses of one choice, as numbers.
#[derive(Clone, Copy, Debug)]
struct Offer {
    /// That a guess is right when those before it are.
    probability: f64,
    /// Guesses there are.
    count: usize,
    /// Those that are taken.
    taken: usize,
    /// That all of these are right.
    reach: f64,
}

impl Offer {
    fn new(probability: f64, count: usize) -> Self {
        Self { probability, count, taken: 0, reach: 1.0 }
    }

    /// What the next guess brings, in tokens.
    fn gain(&self) -> f64 {
        self.reach * self.probability
    }
}

impl Speculator {
    pub(crate) fn new(architecture: &Architecture, options: &EngineOptions, make: MakeDrafter) -> Self {
        Self {
            setting: setting(architecture, options),
            make,
            cost: StepCost::default(),
            logits_rows: logits_rows(architecture, options),
            vocabulary: architecture.vocabulary_size,
        }
    }

    /// Gives each choice of a session its drafter.
    pub(crate) fn equip(&self, session: &mut Running) {
        if self.setting == Speculation::Off {
            return;
        }
        let Running { request, choices, .. } = session;
        for choice in choices {
            choice.drafts = Some(Drafts {
                drafter: (self.make)(request, choice.index),
                acceptance: Acceptance::default(),
                offered: Vec::new(),
                class: 0,
            });
        }
    }

    /// Adds drafts to a step in which `rows` have been dealt out and `free` more are possible. Returns the rows added.
    pub(crate) fn deal(&mut self, running: &mut [Running], rows: usize, free: usize) -> usize {
        if self.setting == Speculation::Off {
            return 0;
        }
        let mut decoding = 0;
        let (mut offers, mut choices) = (Vec::new(), Vec::new());
        for session in running {
            let Running { request, max_tokens, choices: all, .. } = session;
            for choice in all.iter_mut().filter(|choice| choice.is_decoding(request)) {
                decoding += 1;
                let most = MOST_DRAFTED.min(max_tokens.saturating_sub(choice.generated + 1));
                let Some(drafts) = &mut choice.drafts else { continue };
                drafts.offer(most, self.vocabulary);
                if !drafts.offered.is_empty() {
                    let probability = drafts.acceptance.probability(drafts.class);
                    offers.push(Offer::new(probability, drafts.offered.len()));
                    choices.push(choice);
                }
            }
        }
        let free = free.min(MOST_DRAFTED).min(self.logits_rows.saturating_sub(decoding));
        match self.setting {
            Speculation::Off => {}
            Speculation::Always(depth) => take_always(&mut offers, free, depth),
            Speculation::Adaptive => self.cost.take_fairly(&mut offers, rows, decoding, free),
        }
        for (choice, offer) in choices.into_iter().zip(&offers) {
            choice.feed_drafts(offer.taken);
        }
        offers.iter().map(|offer| offer.taken).sum()
    }

    /// Notes what a step of answers alone took.
    pub(crate) fn took(&mut self, rows: usize, seconds: f64) {
        self.cost.add(rows, seconds);
    }
}

impl StepCost {
    /// Takes as many guesses as pay; fewer where others would pay for them.
    fn take_fairly(&self, offers: &mut [Offer], rows: usize, decoding: usize, free: usize) {
        self.take_best(offers, rows, decoding, free);
        let drafting = offers.iter().filter(|offer| offer.taken > 0).count();
        let taken: usize = offers.iter().map(|offer| offer.taken).sum();
        // Prompts, and answers without drafts, only lose by those of others.
        let bearable = FAIR * self.seconds_of(rows as f64) / self.slope();
        if drafting > 0 && drafting < rows && taken as f64 > bearable {
            self.take_best(offers, rows, decoding, free.min(bearable as usize));
        }
    }

    /// Takes those guesses, at most `free`, with which the most tokens a second are to be expected.
    fn take_best(&self, offers: &mut [Offer], rows: usize, decoding: usize, free: usize) {
        let none = |offers: &mut [Offer]| {
            for offer in offers {
                (offer.taken, offer.reach) = (0, 1.0);
            }
        };
        none(offers);
        let (row, alone) = (self.slope(), self.seconds_of(rows as f64));
        let (mut tokens, mut seconds) = (decoding as f64, alone);
        for _ in 0..free {
            let open = offers.iter_mut().filter(|offer| offer.taken < offer.count);
            let Some(likeliest) = open.max_by(|a, b| a.gain().total_cmp(&b.gain())) else { break };
            let gain = likeliest.gain();
            if gain * seconds <= row * tokens {
                break;
            }
            likeliest.reach = gain;
            likeliest.taken += 1;
            tokens += gain;
            seconds += row;
        }
        if tokens * alone < LEAST_GAIN * decoding as f64 * seconds {
            none(offers);
        }
    }
}

/// Takes guesses down to a depth, whether or not they pay.
fn take_always(offers: &mut [Offer], mut free: usize, depth: usize) {
    for offer in offers {
        offer.taken = offer.count.min(depth).min(free);
        free -= offer.taken;
    }
}

#[cfg(test)]
mod tests;
