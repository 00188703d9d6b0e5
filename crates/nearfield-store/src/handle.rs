//! The handle of one admitted request: what keeps its row exactly one.

use std::fmt;
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

/// What wants to know what a request cost in the end; `None` when that is not known.
struct OnClose(Box<dyn FnOnce(Option<NanoDollars>) + Send + Sync>);

impl fmt::Debug for OnClose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OnClose")
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
    /// The attempts under way, by position, and when they began.
    open: Vec<(u32, Instant)>,
    /// The sum of the ended attempts' costs; `None` once one of them is unknown.
    cost: Option<NanoDollars>,
    finished: bool,
    /// The admission, until it is journalled.
    held: Option<Record>,
    /// Whether anything was handed to a backend elsewhere.
    left: bool,
    /// Told the cost when the row is closed, whatever closes it.
    on_close: Option<OnClose>,
}

impl RowHandle {
    /// Journals the admission of a request.
    pub(crate) fn admit(ledger: Ledger, admission: Admission) -> Result<Self, StoreError> {
        let mut row = Self::hold(ledger, admission);
        let held = row.held.take();
        if let Err(error) = row.ledger.journal().append(Vec::from_iter(held)) {
            row.forget();
            return Err(error);
        }
        Ok(row)
    }

    /// An admission that is journalled with the first attempt, or with the end.
    pub(crate) fn hold(ledger: Ledger, admission: Admission) -> Self {
        let id = uuid::Uuid::now_v7().to_string();
        let Admission { key_id, model, reason, policy_hash, retention, reserved } = admission;
        let time = Timestamp::now().as_microsecond();
        let admitted =
            Admitted { id: id.clone(), time, key_id, model, reason, policy_hash, retention, reserved };
        Self {
            ledger,
            id,
            started: Instant::now(),
            attempts: 0,
            open: Vec::new(),
            cost: Some(NanoDollars::ZERO),
            finished: false,
            held: Some(Record::Admitted(admitted)),
            left: false,
            on_close: None,
        }
    }

    /// The request was not admitted: it has no row.
    fn forget(&mut self) {
        self.finished = true;
        if let Some(OnClose(told)) = self.on_close.take() {
            told(Some(NanoDollars::ZERO));
        }
    }

    /// Whether the request has a row, or will have one whatever happens in this process.
    pub fn is_admitted(&self) -> bool {
        !self.finished
    }

    /// Has `told` called once with the row's cost when the row is closed, also where that is by dropping this handle.
    /// The cost is `None` when it is not known and a backend elsewhere was tried.
    pub fn on_close(&mut self, told: impl FnOnce(Option<NanoDollars>) + Send + Sync + 'static) {
        self.on_close = Some(OnClose(Box::new(told)));
    }

    /// The request's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Journals that a backend is about to be tried, and gives the attempt's position. When this fails, it must not be
    /// tried. Attempts that are still open are closed as unknown first.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn attempt(&mut self, start: AttemptStart) -> Result<u32, StoreError> {
        for (position, _) in self.open.clone() {
            let end = AttemptEnd { outcome: Outcome::Unknown, usage: None, cost: None, price: None };
            self.end_attempt_at(position, end);
        }
        self.attempt_beside(start)
    }

    /// The same beside attempts that are under way, which stay open.
    ///
    /// # Errors
    /// The journal cannot be written. When it was to record the admission too, the request is not admitted.
    pub fn attempt_beside(&mut self, start: AttemptStart) -> Result<u32, StoreError> {
        let position = self.attempts;
        let held = self.held.take();
        let admits = held.is_some();
        // They are kept for a while: no room for more than these.
        let mut records = Vec::with_capacity(1 + usize::from(admits));
        records.extend(held);
        records.push(Record::AttemptStarted(AttemptStarted {
            id: self.id.clone(),
            position,
            backend: start.backend,
            locality: start.locality.as_str().to_owned(),
            why: start.why,
            bytes_out: start.bytes_out,
        }));
        if let Err(error) = self.ledger.journal().append(records) {
            if admits {
                self.forget();
            }
            return Err(error);
        }
        self.attempts += 1;
        self.left |= start.locality == Locality::Cloud;
        self.open.push((position, Instant::now()));
        Ok(position)
    }

    /// Notes the end of the attempt that began last of those under way; without one this does nothing. A journal
    /// that cannot be written now is written later: what has happened is not undone by it.
    pub fn end_attempt(&mut self, end: AttemptEnd) {
        if let Some(&(position, _)) = self.open.last() {
            self.end_attempt_at(position, end);
        }
    }

    /// Notes the end of the attempt at a position; one that is not under way is left as it is.
    pub fn end_attempt_at(&mut self, position: u32, end: AttemptEnd) {
        if let Some(record) = self.attempt_ended(position, end) {
            self.ledger.journal().note(vec![record]);
        }
    }

    /// Closes the row, and with it the attempt that began last of those under way, in one write. The row's cost, the sum of
    /// the attempts', is returned.
    pub fn finish(mut self, attempt: Option<AttemptEnd>, end: End) -> Option<NanoDollars> {
        self.close(attempt, end)
    }

    fn close(&mut self, attempt: Option<AttemptEnd>, end: End) -> Option<NanoDollars> {
        self.finished = true;
        let outcome = end.outcome.clone();
        let bare = || AttemptEnd { outcome, usage: None, cost: None, price: None };
        let mut records = Vec::with_capacity(2);
        records.extend(self.held.take());
        let answered = self.open.last().map(|&(position, _)| position);
        if let Some(position) = answered {
            records.extend(self.attempt_ended(position, attempt.unwrap_or_else(bare)));
        }
        let answered = answered.filter(|position| position + 1 != self.attempts);
        // Whatever else is under way ends with the request, at a cost that nobody knows.
        for (position, _) in self.open.clone() {
            let end = AttemptEnd { outcome: Outcome::Cancelled, usage: None, cost: None, price: None };
            records.extend(self.attempt_ended(position, end));
        }
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
            answered,
        }));
        self.ledger.journal().note(records);
        if let Some(OnClose(told)) = self.on_close.take() {
            told(self.cost.or((!self.left).then_some(NanoDollars::ZERO)));
        }
        self.cost
    }

    fn attempt_ended(&mut self, position: u32, end: AttemptEnd) -> Option<Record> {
        let at = self.open.iter().position(|&(open, _)| open == position)?;
        let (_, began) = self.open.remove(at);
        self.cost = self.cost.zip(end.cost).map(|(sum, cost)| sum + cost);
        Some(Record::AttemptEnded(AttemptEnded {
            id: self.id.clone(),
            position,
            outcome: end.outcome,
            usage: end.usage.map(Into::into),
            cost: end.cost,
            price: end.price,
            duration_us: microseconds(began.elapsed()),
        }))
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
