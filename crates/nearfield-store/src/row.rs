//! Rows of the ledger as they are read.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use nearfield_api::{ErrorKind, Usage};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::NanoDollars;

/// What is known of a request when it is admitted. Neither this nor anything else in the ledger holds text of a
/// prompt or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The id of the key that the caller showed; `None` for the command line.
    pub key_id: Option<String>,
    /// The model as the caller wrote it.
    pub model: String,
    /// Why the first candidate stands first.
    pub reason: String,
    /// The hash of the policy that decided.
    pub policy_hash: String,
    /// How long what is kept of it is kept, as the policy names it.
    pub retention: Option<String>,
    /// What was set aside for it of its key's month. It counts as spent until the cost is known.
    pub reserved: Option<NanoDollars>,
}

/// How a request or an attempt ended. Written `done`, `error:<kind>`, `truncated`, `cancelled` or `unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is complete.
    Done,
    /// It failed; the name of the [`ErrorKind`].
    Error(String),
    /// It failed after the caller had seen a part of it; the reply ended with an error event.
    Truncated,
    /// The caller went away.
    Cancelled,
    /// The process died before it could say.
    Unknown,
}

impl From<ErrorKind> for Outcome {
    fn from(kind: ErrorKind) -> Self {
        if kind == ErrorKind::Cancelled { Self::Cancelled } else { Self::Error(kind.as_str().to_owned()) }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => formatter.write_str("done"),
            Self::Error(kind) => write!(formatter, "error:{kind}"),
            Self::Truncated => formatter.write_str("truncated"),
            Self::Cancelled => formatter.write_str("cancelled"),
            Self::Unknown => formatter.write_str("unknown"),
        }
    }
}

impl Outcome {
    /// Reads what [`fmt::Display`] wrote; what is none of these is `Unknown`.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "done" => Self::Done,
            "truncated" => Self::Truncated,
            "cancelled" => Self::Cancelled,
            _ => match text.strip_prefix("error:") {
                Some(kind) => Self::Error(kind.to_owned()),
                None => Self::Unknown,
            },
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(deserializer)?))
    }
}

/// What the same tokens would have cost at a reference price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counterfactual {
    /// The price's name.
    pub price: String,
    /// The cost at it.
    pub cost: NanoDollars,
}

/// One request. What is not known, or not known yet, is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The request's id, a UUID of version 7.
    pub id: String,
    /// When it was admitted.
    pub time: Timestamp,
    /// The id of the key that the caller showed.
    pub key_id: Option<String>,
    /// The model as the caller wrote it.
    pub model: String,
    /// The backend that answered, or was tried last.
    pub backend: Option<String>,
    /// `local` or `cloud`.
    pub locality: Option<String>,
    /// Why that backend.
    pub reason: String,
    /// The hash of the policy that decided.
    pub policy_hash: String,
    /// How long what is kept of it is kept, as the policy names it.
    pub retention: Option<String>,
    /// What was set aside for it of its key's month.
    pub reserved: Option<NanoDollars>,
    /// Tokens of the answer that the caller got.
    pub usage: Option<Usage>,
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// Time to the end.
    pub duration: Option<Duration>,
    /// The sum of the attempts' costs; unknown when one of them is.
    pub cost: Option<NanoDollars>,
    /// What the same tokens would have cost at the reference price.
    pub counterfactual: Option<Counterfactual>,
    /// Energy of the local work, where it was measured.
    pub energy_joules: Option<f64>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// The version of the local engine's arithmetic, when it answered.
    pub numerics: Option<String>,
    /// The backends that were tried, in order.
    pub attempts: Vec<AttemptRow>,
}

/// One backend that was tried for a request.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// The backend.
    pub backend: String,
    /// `local` or `cloud`.
    pub locality: String,
    /// Why it was tried.
    pub why: String,
    /// Bytes of prompt content that were handed to a backend outside this machine.
    pub bytes_out: u64,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// Tokens it took, counted by the backend or estimated.
    pub usage: Option<Usage>,
    /// What it cost.
    pub cost: Option<NanoDollars>,
    /// The name of the price behind the cost.
    pub price: Option<String>,
    /// How long it took.
    pub duration: Option<Duration>,
}

impl Serialize for Row {
    /// The flat form that `nearfield ledger --json` prints: times in milliseconds, money in dollars.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("key_id", &self.key_id)?;
        map.serialize_entry("model", &self.model)?;
        map.serialize_entry("backend", &self.backend)?;
        map.serialize_entry("locality", &self.locality)?;
        map.serialize_entry("reason", &self.reason)?;
        map.serialize_entry("policy_hash", &self.policy_hash)?;
        map.serialize_entry("retention", &self.retention)?;
        map.serialize_entry("reserved_usd", &self.reserved.map(NanoDollars::dollars))?;
        serialize_usage(&mut map, self.usage.as_ref())?;
        map.serialize_entry("ttft_ms", &self.ttft.map(milliseconds))?;
        map.serialize_entry("duration_ms", &self.duration.map(milliseconds))?;
        map.serialize_entry("cost_usd", &self.cost.map(NanoDollars::dollars))?;
        let counterfactual = self.counterfactual.as_ref();
        map.serialize_entry("counterfactual_usd", &counterfactual.map(|other| other.cost.dollars()))?;
        map.serialize_entry("counterfactual_price", &counterfactual.map(|other| &other.price))?;
        map.serialize_entry("energy_joules", &self.energy_joules)?;
        map.serialize_entry("outcome", &self.outcome)?;
        map.serialize_entry("numerics", &self.numerics)?;
        map.serialize_entry("attempts", &self.attempts)?;
        map.end()
    }
}

impl Serialize for AttemptRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("backend", &self.backend)?;
        map.serialize_entry("locality", &self.locality)?;
        map.serialize_entry("why", &self.why)?;
        map.serialize_entry("bytes_out", &self.bytes_out)?;
        map.serialize_entry("outcome", &self.outcome)?;
        serialize_usage(&mut map, self.usage.as_ref())?;
        map.serialize_entry("cost_usd", &self.cost.map(NanoDollars::dollars))?;
        map.serialize_entry("price", &self.price)?;
        map.serialize_entry("duration_ms", &self.duration.map(milliseconds))?;
        map.end()
    }
}

fn serialize_usage<M: SerializeMap>(map: &mut M, usage: Option<&Usage>) -> Result<(), M::Error> {
    map.serialize_entry("input_tokens", &usage.map(|usage| usage.input))?;
    map.serialize_entry("cached_input_tokens", &usage.map(|usage| usage.cached_input))?;
    map.serialize_entry("output_tokens", &usage.map(|usage| usage.output))?;
    map.serialize_entry("reasoning_tokens", &usage.map(|usage| usage.reasoning))?;
    map.serialize_entry("cache_write_tokens", &usage.map(|usage| usage.cache_write))?;
    map.serialize_entry("cache_write_1h_tokens", &usage.map(|usage| usage.cache_write_1h))?;
    map.serialize_entry("unattributed_tokens", &usage.map(|usage| usage.unattributed))?;
    map.serialize_entry("measured", &usage.map(|usage| usage.measured))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// Which rows to read. What is `None` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Admitted at this time or later.
    pub since: Option<Timestamp>,
    /// Admitted before this time.
    pub until: Option<Timestamp>,
    /// The request's id.
    pub id: Option<String>,
    /// The key's id.
    pub key_id: Option<String>,
    /// The model as the caller wrote it.
    pub model: Option<String>,
    /// The backend that answered, or was tried last.
    pub backend: Option<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// At most so many rows, the newest. Sums ignore it.
    pub limit: Option<u32>,
}

/// Sums over rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// One line for each backend and model.
    pub lines: Vec<SummaryLine>,
    /// All lines together; its backend and model are `None`.
    pub total: SummaryLine,
}

/// Sums over the rows of one backend and model. Money of rows whose cost is unknown is not in the sums; their number
/// is in `unpriced`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummaryLine {
    /// The backend; `None` where no backend was reached.
    pub backend: Option<String>,
    /// The model as callers wrote it.
    pub model: Option<String>,
    /// Rows.
    pub requests: u64,
    /// Rows that ended as `done`.
    pub done: u64,
    /// Prompt tokens at full price.
    pub input_tokens: u64,
    /// Prompt tokens from a cache.
    pub cached_input_tokens: u64,
    /// Generated tokens, without reasoning.
    pub output_tokens: u64,
    /// Generated tokens of reasoning.
    pub reasoning_tokens: u64,
    /// The sum of the known costs.
    pub cost: NanoDollars,
    /// Rows whose cost is unknown.
    pub unpriced: u64,
    /// The sum of the known costs at the reference price.
    pub counterfactual: NanoDollars,
    /// Reference price less cost, over the local rows where both are known; `None` where no row has both.
    pub saved: Option<NanoDollars>,
}

impl SummaryLine {
    pub(crate) fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.requests, other.requests);
        add(&mut self.done, other.done);
        add(&mut self.input_tokens, other.input_tokens);
        add(&mut self.cached_input_tokens, other.cached_input_tokens);
        add(&mut self.output_tokens, other.output_tokens);
        add(&mut self.reasoning_tokens, other.reasoning_tokens);
        add(&mut self.unpriced, other.unpriced);
        self.cost = self.cost + other.cost;
        self.counterfactual = self.counterfactual + other.counterfactual;
        self.saved = match (self.saved, other.saved) {
            (Some(one), Some(two)) => Some(one + two),
            (one, two) => one.or(two),
        };
    }
}

impl Serialize for SummaryLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("backend", &self.backend)?;
        map.serialize_entry("model", &self.model)?;
        map.serialize_entry("requests", &self.requests)?;
        map.serialize_entry("done", &self.done)?;
        map.serialize_entry("input_tokens", &self.input_tokens)?;
        map.serialize_entry("cached_input_tokens", &self.cached_input_tokens)?;
        map.serialize_entry("output_tokens", &self.output_tokens)?;
        map.serialize_entry("reasoning_tokens", &self.reasoning_tokens)?;
        map.serialize_entry("cost_usd", &self.cost.dollars())?;
        map.serialize_entry("unpriced", &self.unpriced)?;
        map.serialize_entry("counterfactual_usd", &self.counterfactual.dollars())?;
        map.serialize_entry("saved_usd", &self.saved.map(NanoDollars::dollars))?;
        map.end()
    }
}
