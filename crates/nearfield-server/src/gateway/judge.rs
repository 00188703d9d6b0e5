//! Looks at the beginning of a local answer before anybody sees it: what the model is not sure of is asked elsewhere.

use nearfield_api::{Error, ErrorKind, Event, Request};
use nearfield_router::rules::{ALTERNATIVES, Escalate, Signals};

/// Pieces without log probabilities after which no more are waited for.
const PATIENCE: u32 = 8;

/// The judge of one answer.
pub(super) struct Judge {
    escalate: Escalate,
    signals: Signals,
    /// Pieces that came without log probabilities.
    silent: u32,
}

impl Judge {
    /// Has the request ask for what the judgement needs. What of that the caller did not ask for is taken out again by
    /// [`Asked::restore`].
    pub(super) fn new(escalate: Escalate, request: &mut Request) -> Self {
        request.logprobs = Some(request.logprobs.unwrap_or(0).max(ALTERNATIVES));
        Self { escalate, signals: Signals::default(), silent: 0 }
    }

    /// Takes in an event. Whether enough is known.
    pub(super) fn hear(&mut self, event: &Event) -> bool {
        match event {
            Event::Delta { logprobs, .. } => {
                for token in logprobs {
                    let alternatives = token.alternatives.iter().take(usize::from(ALTERNATIVES));
                    self.signals.push(token.logprob, alternatives.map(|other| other.logprob));
                }
                self.silent += u32::from(logprobs.is_empty());
                // A backend that tells none cannot be judged.
                let deaf = self.signals.tokens() == 0 && self.silent >= PATIENCE;
                deaf || self.signals.tokens() >= self.escalate.tokens
            }
            Event::Done { .. } => true,
            _ => false,
        }
    }

    /// The error of an answer that is not good enough to be shown.
    pub(super) fn doubt(&self) -> Option<Error> {
        let doubt = self.escalate.doubt(&self.signals)?;
        Some(Error::new(ErrorKind::Unsure, format!("the local model is not sure of its answer: {doubt}")))
    }
}

/// The alternatives of each token that the caller asked for; `None` for no log probabilities at all.
#[derive(Clone, Copy)]
pub(super) struct Asked(pub(super) Option<u8>);

impl Asked {
    /// Takes out of an event what was not asked for.
    pub(super) fn restore(self, event: &mut Event) {
        let Event::Delta { logprobs, .. } = event else { return };
        match self.0 {
            None => logprobs.clear(),
            Some(most) => {
                for token in logprobs {
                    token.alternatives.truncate(usize::from(most));
                }
            }
        }
    }
}
