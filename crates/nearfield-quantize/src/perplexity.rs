//! Perplexity by the protocol that llama.cpp's figures follow, so that figures can be compared.
//!
//! The text is cut into windows that do not overlap. Each window is fed from an empty cache, its first token replaced
//! by the beginning-of-text token where the vocabulary asks for one. Only the second half is scored: of a window of
//! 512, the predictions at positions 256 to 510, of the tokens 257 to 511.

use nearfield_engine::{Chunk, EngineError, LogitsWanted, Runner, Sequence};
use nearfield_kernels::math;

/// Rows whose logits are held at one time; a vocabulary of 262 thousand takes 1 MiB a row.
const ROWS: usize = 64;

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens of a window. Figures of different windows must not be mixed; 512 is the usual one.
    pub window: usize,
    /// Windows to take from the start of the text; `None` takes all whole ones.
    pub windows: Option<usize>,
    /// Replaces the first token of every window.
    pub beginning: Option<u32>,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { window: 512, windows: None, beginning: None }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// The exponential of the mean negative log-likelihood of the scored tokens.
    pub perplexity: f64,
    /// Its standard error: how much the choice of text matters. Two engines on the same windows agree far better.
    pub standard_error: f64,
    /// Windows that were fed.
    pub windows: usize,
    /// Tokens that were scored.
    pub scored: usize,
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Windows that are done.
    pub done: usize,
    /// Windows in all.
    pub windows: usize,
    /// Perplexity of what is done.
    pub perplexity: f64,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PerplexityError {
    /// The text has no whole window.
    #[error("the text has {tokens} tokens, fewer than one window of {window}; give a longer text")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A window must have a half that is scored.
    #[error("a window must have at least 4 tokens, not {window}")]
    WindowTooShort {
        /// What was asked for.
        window: usize,
    },
    /// The cache is too small.
    #[error("a window of {window} tokens does not fit the cache; raise the context")]
    WindowTooLong {
        /// What was asked for.
        window: usize,
    },
    /// Two models without a common vocabulary.
    #[error("models of {teacher} and {student} tokens cannot be compared: take two of the same family")]
    DifferentVocabularies {
        /// Tokens of the model that is the reference.
        teacher: usize,
        /// Tokens of the model that is measured.
        student: usize,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Measures the perplexity of `tokens`. `progress` is called after every window; when it returns `false` the
/// measurement ends there with what it has.
///
/// # Errors
/// When no whole window is there or fits, or the engine fails.
pub fn perplexity(
    runner: &mut Runner<'_>,
    tokens: &[u32],
    options: &PerplexityOptions,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Perplexity, PerplexityError> {
    let windows = Windows::new(tokens, options)?;
    let mut score = Score::default();
    let mut fed = 0;
    for text in windows.iter() {
        score_window(runner, &text, &mut score)?;
        fed += 1;
        if !progress(Progress { done: fed, windows: windows.count, perplexity: score.perplexity() }) {
            break;
        }
    }
    Ok(Perplexity {
        perplexity: score.perplexity(),
        standard_error: score.standard_error(),
        windows: fed,
        scored: score.count,
    })
}

/// The windows of a text.
pub(crate) struct Windows<'a> {
    tokens: &'a [u32],
    length: usize,
    /// How many there are.
    pub(crate) count: usize,
    beginning: Option<u32>,
}

impl<'a> Windows<'a> {
    pub(crate) fn new(tokens: &'a [u32], options: &PerplexityOptions) -> Result<Self, PerplexityError> {
        let window = options.window;
        if window < 4 {
            return Err(PerplexityError::WindowTooShort { window });
        }
        let whole = tokens.len() / window;
        let count = options.windows.map_or(whole, |wanted| wanted.min(whole));
        if count == 0 {
            return Err(PerplexityError::TextTooShort { tokens: tokens.len(), window });
        }
        Ok(Self { tokens, length: window, count, beginning: options.beginning })
    }

    /// Each window with its first token replaced.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Vec<u32>> {
        self.tokens.chunks_exact(self.length).take(self.count).map(|text| {
            let mut text = text.to_vec();
            if let (Some(beginning), Some(first)) = (self.beginning, text.first_mut()) {
                *first = beginning;
            }
            text
        })
    }
}

/// An empty sequence with room for a window.
pub(crate) fn open(runner: &mut Runner<'_>, window: usize) -> Result<Sequence, PerplexityError> {
    runner.open(window).ok_or(PerplexityError::WindowTooLong { window })
}

/// Feeds the half of a window that is not scored.
pub(crate) fn feed(
    runner: &mut Runner<'_>,
    sequence: &mut Sequence,
    context: &[u32],
) -> Result<(), EngineError> {
    runner.step(&mut [Chunk { sequence, tokens: context, logits: LogitsWanted::None }]).map(|_| ())
}

/// The halves of a window: what is fed before, and the scored tokens with what follows each, a few rows at a time. The
/// last token predicts nothing that is known.
pub(crate) fn halves(text: &[u32]) -> (&[u32], impl Iterator<Item = (&[u32], &[u32])>) {
    let (context, rest) = text.split_at(text.len() / 2);
    let fed = rest.get(..rest.len() - 1).unwrap_or_default();
    let targets = rest.get(1..).unwrap_or_default();
    (context, fed.chunks(ROWS).zip(targets.chunks(ROWS)))
}

/// Feeds one window to an empty sequence and scores its second half.
fn score_window(runner: &mut Runner<'_>, text: &[u32], score: &mut Score) -> Result<(), PerplexityError> {
    let mut sequence = open(runner, text.len())?;
    let (context, scored) = halves(text);
    let mut result = feed(runner, &mut sequence, context);
    for (tokens, targets) in scored {
        if result.is_err() {
            break;
        }
        let chunk = Chunk { sequence: &mut sequence, tokens, logits: LogitsWanted::All };
        result = runner.step(&mut [chunk]).map(|logits| {
            for (row, target) in targets.iter().enumerate() {
                score.add(logits.row(row), *target);
            }
        });
    }
    runner.close(sequence);
    Ok(result?)
}

/// Sums of negative log-likelihoods and of their squares.
#[derive(Default)]
pub(crate) struct Score {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Score {
    pub(crate) fn add(&mut self, logits: &[f32], target: u32) {
        self.take(negative_log_likelihood(logits, target as usize));
    }

    /// Takes one value in.
    pub(crate) fn take(&mut self, value: f64) {
        self.sum += value;
        self.squares += value * value;
        self.count += 1;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    pub(crate) fn perplexity(&self) -> f64 {
        math::exp_f64(self.mean())
    }

    /// The standard error of the mean.
    pub(crate) fn error_of_mean(&self) -> f64 {
        let variance = (self.squares / self.count as f64 - self.mean() * self.mean()).max(0.0);
        (variance / (self.count as f64 - 1.0).max(1.0)).sqrt()
    }

    /// The standard error of the mean, carried through the exponential.
    fn standard_error(&self) -> f64 {
        self.error_of_mean() * self.perplexity()
    }
}

/// `-ln softmax(logits)[target]`.
fn negative_log_likelihood(logits: &[f32], target: usize) -> f64 {
    let own = logits.get(target).copied().unwrap_or(f32::NEG_INFINITY);
    Odds::new(logits).negative_log(own)
}

/// The denominator of a softmax.
#[derive(Clone, Copy)]
pub(crate) struct Odds {
    pub(crate) largest: f32,
    /// Sum of `exp(logit - largest)`.
    pub(crate) sum: f64,
    log: f64,
}

impl Odds {
    pub(crate) fn new(logits: &[f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(math::exp(logit - largest))).sum();
        Self { largest, sum, log: math::ln_f64(sum) }
    }

    /// `-ln` of the probability of the token with this logit.
    pub(crate) fn negative_log(self, logit: f32) -> f64 {
        self.log - f64::from(logit - self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_are_those_of_the_softmax() {
        // Odds of 1, 2 and 5.
        let logits = [0.0, std::f32::consts::LN_2, 1.609_438];
        for (target, share) in [(0, 1.0_f64 / 8.0), (1, 2.0 / 8.0), (2, 5.0 / 8.0)] {
            let found = negative_log_likelihood(&logits, target);
            assert!((math::exp_f64(-found) - share).abs() < 1e-6, "{found}");
        }
        assert_eq!(negative_log_likelihood(&logits, 3), f64::INFINITY);
    }

    #[test]
    fn even_odds_give_the_number_of_tokens() {
        let mut score = Score::default();
        for target in 0..10 {
            score.add(&[0.25; 16], target);
        }
        assert!((score.perplexity() - 16.0).abs() < 1e-9);
        assert!(score.standard_error() < 1e-6);
        score.add(&[0.0, 1.0], 0);
        assert!(score.standard_error() > 0.1);
    }
}
