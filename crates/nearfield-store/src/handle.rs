//! The handle of one admitted request: what keeps its row exactly one.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use nearfield_api::{Locality, Usage};

use crate::ledger::Ledger;
use crate::record::{Admitted, AttemptEnded, AttemptStarted, Ended, Record, microseconds};
use crate::row::{Admission, Counterfactual, Outcome};
use crate::{NanoDollars, StoreError};

/// A backend that is about to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStart {
    /// The backend.
    pub backend: String,
    /// Where it runs.
    pub locality: Locality,
    /// Why it is tried.
    pub why: String,
    /// Bytes of prompt content that it gets, when it runs elsewhere.
    pub bytes_out: u64,
}

/// How trying a backend ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// What became of it.
    pub outcome: Outcome,
    /// Tokens it took.
    pub usage: Option<Usage>,
    /// What it cost; `None` when that is unknown.
    pub cost: Option<NanoDollars>,
    /// The name of the price behind the cost.
    pub price: Option<String>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// What became of it.
    pub outcome: Outcome,
    /// Why the backend that answered did, where that is not the reason of the admission.
    pub reason: Option<String>,
    /// Tokens of the answer.
    pub usage: Option<Usage>,
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// What the same tokens would have cost at the reference price.
    pub counterfactual: Option<Counterfactual>,
    /// Measured energy of the local work.
    pub energy_joules: Option<f64>,
    /// The version of the local engine's arithmetic.
    pub numerics: Option<String>,
}

impl End {
    /// An end of which nothing but the outcome is known.
    pub const fn bare(outcome: Outcome) -> Self {
        Self {
            outcome,
            reason: None,
            usage: None,
            ttft: None,
            counterfactual: None,
            energy_joules: None,
            numerics: None,
        }
    }
}

/// One admitted request. Its row is closed exactly once: by [`RowHandle::finish`], or when the handle is dropped, then
/// as cancelled (as an internal error while panicking).
#[derive(Debug)]
pub struct RowHandle {
    ledger: Ledger,
    id: String,
    started: Instant,
    /// Attempts begun so far.
    attempts: u32,
    /// The attempt under way: when it began.
    current: Option<Instant>,
    /// The sum of the ended attempts' costs; `None` once one of them is unknown.
    cost: Option<NanoDollars>,
    finished: bool,
}

impl RowHandle {
    /// Journals the admission of a request.
    pub(crate) fn admit(ledger: Ledger, admission: Admission) -> Result<Self, StoreError> {
        let id = uuid::Uuid::now_v7().to_string();
        let Admission { key_id, model, reason, policy_hash } = admission;
        let time = Timestamp::now().as_microsecond();
        let admitted = Admitted { id: id.clone(), time, key_id, model, reason, policy_hash };
        ledger.journal().append(&[Record::Admitted(admitted)])?;
        Ok(Self {
            ledger,
            id,
            started: Instant::now(),
            attempts: 0,
            current: None,
            cost: Some(NanoDollars::ZERO),
            finished: false,
        })
    }

    /// The request's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Journals that a backend is about to be tried. When this fails, it must not be tried. An attempt that is still
    /// open is closed as unknown first.
    pub fn attempt(&mut self, start: AttemptStart) -> Result<(), StoreError> {
        if self.current.is_some() {
            self.end_attempt(AttemptEnd { outcome: Outcome::Unknown, usage: None, cost: None, price: None });
        }
        self.ledger.journal().append(&[Record::AttemptStarted(AttemptStarted {
            id: self.id.clone(),
            position: self.attempts,
            backend: start.backend,
            locality: start.locality.as_str().to_owned(),
            why: start.why,
            bytes_out: start.bytes_out,
        })])?;
        self.attempts += 1;
        self.current = Some(Instant::now());
        Ok(())
    }

    /// Journals the end of the attempt under way; without one this does nothing. A journal that cannot be written
    /// now is written later: what has happened is not undone by it.
    pub fn end_attempt(&mut self, end: AttemptEnd) {
        if let Some(record) = self.attempt_ended(end) {
            self.journal_end(&[record]);
        }
    }

    /// Closes the row, and with it the attempt under way, if there is one, in one write. The row's cost, the sum of
    /// the attempts', is returned.
    pub fn finish(mut self, attempt: Option<AttemptEnd>, end: End) -> Option<NanoDollars> {
        self.close(attempt, end)
    }

    fn close(&mut self, attempt: Option<AttemptEnd>, end: End) -> Option<NanoDollars> {
        self.finished = true;
        let outcome = end.outcome.clone();
        let bare = || AttemptEnd { outcome, usage: None, cost: None, price: None };
        let mut records = Vec::with_capacity(2);
        records.extend(self.attempt_ended(attempt.unwrap_or_else(bare)));
        records.push(Record::Ended(Ended {
            id: self.id.clone(),
            outcome: end.outcome,
            reason: end.reason,
            usage: end.usage.map(Into::into),
            ttft_us: end.ttft.map(microseconds),
            duration_us: microseconds(self.started.elapsed()),
            cost: self.cost,
            counterfactual: end.counterfactual,
            energy_joules: end.energy_joules,
            numerics: end.numerics,
        }));
        self.journal_end(&records);
        self.cost
    }

    fn attempt_ended(&mut self, end: AttemptEnd) -> Option<Record> {
        let began = self.current.take()?;
        self.cost = self.cost.zip(end.cost).map(|(sum, cost)| sum + cost);
        Some(Record::AttemptEnded(AttemptEnded {
            id: self.id.clone(),
            position: self.attempts.saturating_sub(1),
            outcome: end.outcome,
            usage: end.usage.map(Into::into),
            cost: end.cost,
            price: end.price,
            duration_us: microseconds(began.elapsed()),
        }))
    }

    fn journal_end(&self, records: &[Record]) {
        if let Err(error) = self.ledger.journal().append_ended(records) {
            tracing::error!(request = self.id, %error, "the end of a request waits to be journalled");
        }
    }
}

impl Drop for RowHandle {
    fn drop(&mut self) {
        if !self.finished {
            let outcome = if std::thread::panicking() {
                Outcome::Error("internal".to_owned())
            } else {
                Outcome::Cancelled
            };
            self.close(None, End::bare(outcome));
        }
    }
}
