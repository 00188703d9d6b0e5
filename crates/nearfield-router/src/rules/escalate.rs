//! Whether this machine's answer is good enough to be shown, told from how sure the model is of its beginning.

use serde::{Deserialize, Serialize};

use super::RulesError;

/// The most tokens that may be looked at.
const MOST_TOKENS: u32 = 1024;
/// Alternatives of a token that are needed to judge.
pub const ALTERNATIVES: u8 = 20;

/// When a local candidate's answer is given up for the next candidate's, before the caller has seen any of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Escalate {
    /// Tokens of the answer that are looked at; a shorter answer is looked at as a whole.
    pub tokens: u32,
    /// It is given up when the mean of their log probabilities is below this.
    pub mean_logprob_below: Option<f64>,
    /// It is given up when the entropy of the first token, in nats, is above this: over its twenty likeliest, all others
    /// as one.
    pub first_entropy_above: Option<f64>,
}

impl Default for Escalate {
    fn default() -> Self {
        Self { tokens: 32, mean_logprob_below: None, first_entropy_above: None }
    }
}

impl Escalate {
    pub(super) fn check(&self, place: &str) -> Result<(), RulesError> {
        let wrong = |why: &str| Err(RulesError::Wrong { place: place.to_owned(), why: why.to_owned() });
        if self.tokens == 0 || self.tokens > MOST_TOKENS {
            return wrong("`escalate` looks at 1 to 1024 `tokens`");
        }
        let thresholds = [self.mean_logprob_below, self.first_entropy_above];
        if thresholds.iter().all(Option::is_none) {
            return wrong("`escalate` needs `mean_logprob_below` or `first_entropy_above`");
        }
        if thresholds.into_iter().flatten().any(|threshold| !threshold.is_finite()) {
            return wrong("a threshold of `escalate` must be finite");
        }
        Ok(())
    }

    /// Why the answer is given up, in words and numbers; `None` when it may be shown.
    pub fn doubt(&self, signals: &Signals) -> Option<String> {
        let (mean, entropy) = (signals.mean_logprob()?, signals.first_entropy?);
        if self.mean_logprob_below.is_some_and(|least| mean < least) {
            return Some(format!("mean log probability {mean:.2} of {} tokens", signals.tokens));
        }
        if self.first_entropy_above.is_some_and(|most| entropy > most) {
            return Some(format!("entropy {entropy:.2} of the first token"));
        }
        None
    }
}

/// How sure a model is of an answer's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    tokens: u32,
    sum: f64,
    first_entropy: Option<f64>,
}

impl Signals {
    /// Takes in the next token: the natural logarithms of its probability and of its likeliest alternatives', the own
    /// one among them.
    pub fn push(&mut self, logprob: f32, alternatives: impl Iterator<Item = f32>) {
        self.tokens = self.tokens.saturating_add(1);
        self.sum += f64::from(logprob);
        if self.first_entropy.is_none() {
            self.first_entropy = Some(entropy(alternatives.map(f64::from)));
        }
    }

    /// How many tokens were taken in.
    pub const fn tokens(&self) -> u32 {
        self.tokens
    }

    fn mean_logprob(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.sum / f64::from(self.tokens))
    }
}

/// The entropy in nats; what the logarithms leave of 1 is one further outcome.
#[expect(clippy::disallowed_methods, reason = "whether an answer is shown does not hang on a last bit")]
fn entropy(logarithms: impl Iterator<Item = f64>) -> f64 {
    let (mut entropy, mut rest) = (0.0, 1.0);
    for logarithm in logarithms {
        let probability = logarithm.exp();
        if probability > 0.0 {
            entropy -= probability * logarithm;
            rest -= probability;
        }
    }
    if rest > 1e-9 { entropy - rest * rest.ln() } else { entropy }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "compared with a tolerance")]
mod tests {
    use super::*;

    fn signals(tokens: &[f32], first: &[f32]) -> Signals {
        let mut signals = Signals::default();
        for token in tokens {
            signals.push(*token, first.iter().map(|probability| probability.ln()));
        }
        signals
    }

    #[test]
    fn entropies_are_those_of_the_distribution() {
        let of = |first: &[f32]| signals(&[0.0], first).first_entropy.unwrap();
        assert!(of(&[1.0]).abs() < 1e-6);
        assert!((of(&[0.5, 0.5]) - 2_f64.ln()).abs() < 1e-6);
        // The rest counts as one outcome.
        assert!((of(&[0.25, 0.25]) - (0.5 * 4_f64.ln() + 0.5 * 2_f64.ln())).abs() < 1e-6);
        assert!(of(&[0.0, 1.0]).abs() < 1e-6);
    }

    #[test]
    fn doubts_are_told_with_their_numbers() {
        let sure = signals(&[-0.1, -0.3], &[0.9, 0.1]);
        let unsure = signals(&[-1.0, -0.5], &[0.4, 0.3, 0.3]);
        let mean = Escalate { mean_logprob_below: Some(-0.4), ..Escalate::default() };
        let entropy = Escalate { first_entropy_above: Some(0.8), ..Escalate::default() };
        assert_eq!((mean.doubt(&sure), entropy.doubt(&sure)), (None, None));
        assert_eq!(mean.doubt(&unsure).unwrap(), "mean log probability -0.75 of 2 tokens");
        assert_eq!(entropy.doubt(&unsure).unwrap(), "entropy 1.09 of the first token");
        assert_eq!(mean.doubt(&Signals::default()), None, "nothing to judge by");
    }

    #[test]
    fn thresholds_are_checked() {
        assert!(Escalate::default().check("p").is_err());
        let good = Escalate { mean_logprob_below: Some(-1.0), ..Escalate::default() };
        assert!(good.check("p").is_ok());
        for wrong in [
            Escalate { tokens: 0, ..good.clone() },
            Escalate { tokens: 5000, ..good.clone() },
            Escalate { first_entropy_above: Some(f64::NAN), ..good },
        ] {
            assert!(wrong.check("p").is_err(), "{wrong:?}");
        }
    }
}
