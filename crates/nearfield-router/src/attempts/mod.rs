//! The attempts of one request as an explicit plan: what is tried next, after which wait, and why.
//!
//! A [`Plan`] is made from a closed candidate set and speaks of its members by their place in it, so that no step can
//! lead outside. It knows no clock, no network and no chance: times and random numbers are handed in.

mod breaker;
mod resilience;

use std::time::Duration;

use nearfield_api::ErrorKind;

pub use breaker::{Breaker, Pass};
pub use resilience::{Disconnect, Resilience, ResilienceError};

use crate::{BackendFacts, Failure, Policy, fallback_reason};

/// Codes of failures that no repetition mends: they are the operator's to mend.
const LASTING: [&str; 4] =
    ["backend_credentials", "insufficient_quota", "backend_redirects", "backend_has_no_such_route"];

/// Why a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It stands first.
    First,
    /// It failed in a way that may have passed.
    Retry,
    /// Another candidate failed or was left out.
    Fallback,
    /// Another candidate is slow.
    Hedge,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The candidate to try, by its place in the candidate set.
    pub candidate: usize,
    /// How long to wait before.
    pub after: Duration,
    /// Why.
    pub cause: Cause,
}

/// How an attempt failed, as far as the plan asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed<'a> {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// Its code, where it has one.
    pub code: Option<&'a str>,
    /// When the backend says that it may be asked again.
    pub retry_after: Option<Duration>,
    /// Whether the caller may have seen a part of the answer: then nothing else may answer.
    pub seen: bool,
    /// The time since the request was admitted.
    pub elapsed: Duration,
    /// A random number: how much of the wait is by chance.
    pub chance: u64,
}

/// What a plan says after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The next step.
    pub step: Step,
    /// Why it is taken, in words for the reply and the ledger.
    pub reason: String,
}

/// The attempts of one request.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    settings: &'a Resilience,
    policy: &'a Policy,
    candidates: Vec<Candidate<'a>>,
    hedged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    facts: &'a BackendFacts,
    taken: bool,
    retries: u32,
}

impl<'a> Plan<'a> {
    /// A plan over a closed candidate set, in the order to try them.
    pub fn new(
        settings: &'a Resilience,
        policy: &'a Policy,
        candidates: impl IntoIterator<Item = &'a BackendFacts>,
    ) -> Self {
        let candidates =
            candidates.into_iter().map(|facts| Candidate { facts, taken: false, retries: 0 }).collect();
        Self { settings, policy, candidates, hedged: false }
    }

    /// What is known of a candidate.
    pub fn facts(&self, candidate: usize) -> Option<&'a BackendFacts> {
        self.candidates.get(candidate).map(|candidate| candidate.facts)
    }

    /// Whether a candidate is left that was not tried.
    pub fn has_more(&self) -> bool {
        self.candidates.iter().any(|candidate| !candidate.taken)
    }

    /// The first step; `None` for an empty set.
    pub fn first(&mut self) -> Option<Step> {
        self.take(Cause::First, |_| true)
    }

    /// A candidate was left out: nothing was sent to it.
    pub fn left_out(&mut self) -> Option<Step> {
        self.take(Cause::Fallback, |_| true)
    }

    /// What follows a failure; `None` when the caller gets the error.
    pub fn failed(&mut self, candidate: usize, failed: &Failed<'_>) -> Option<Next> {
        let facts = self.facts(candidate)?;
        let failure = Failure { kind: failed.kind, after_first_token: failed.seen };
        let reason = fallback_reason(self.policy, facts, failure)?;
        if failed.elapsed >= self.settings.give_up_after {
            return None;
        }
        let step = match self.retry(candidate, failed) {
            Some(step) => step,
            None => self.take(Cause::Fallback, |_| true)?,
        };
        Some(Next { step, reason })
    }

    /// The candidate that may run beside a slow one; only once, and only one that `affordable` agrees to.
    pub fn hedge(&mut self, affordable: impl Fn(&BackendFacts) -> bool) -> Option<Step> {
        if self.hedged || self.settings.hedge_after.is_none() {
            return None;
        }
        self.hedged = true;
        self.take(Cause::Hedge, affordable)
    }

    /// The first candidate that was not tried.
    fn take(&mut self, cause: Cause, may: impl Fn(&BackendFacts) -> bool) -> Option<Step> {
        let left = self.candidates.iter().position(|candidate| !candidate.taken && may(candidate.facts))?;
        if let Some(candidate) = self.candidates.get_mut(left) {
            candidate.taken = true;
        }
        Some(Step { candidate: left, after: Duration::ZERO, cause })
    }

    /// The same candidate once more, where that may help and does not take too long. This process's engine is not
    /// asked again: a full queue spills at once, and what it cannot do it will not do a moment later.
    fn retry(&mut self, place: usize, failed: &Failed<'_>) -> Option<Step> {
        let passing =
            matches!(failed.kind, ErrorKind::RateLimited | ErrorKind::Overloaded | ErrorKind::Upstream)
                && !failed.code.is_some_and(|code| LASTING.contains(&code));
        let candidate = self.candidates.get_mut(place)?;
        if candidate.facts.engine || !passing || candidate.retries >= self.settings.retries {
            return None;
        }
        let after = self.settings.wait(candidate.retries, failed.retry_after, failed.chance)?;
        candidate.retries += 1;
        Some(Step { candidate: place, after, cause: Cause::Retry })
    }
}

#[cfg(test)]
mod tests;
