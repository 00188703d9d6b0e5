//! What the caller is told of an answer beside its text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nearfield_api::{Locality, Usage};
use nearfield_store::{NanoDollars, Outcome};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// The receipt of one answer: a shared handle that fills while the answer runs and is complete when its stream has
/// ended.
#[derive(Clone, Debug)]
pub struct Receipt(Arc<Mutex<ReceiptFields>>);

/// What a receipt says. What is not known, or not known yet, is `None`.
///
/// As JSON it is the `nearfield` field of a reply: money in dollars (`cost_usd`), times in milliseconds, tokens as in
/// the ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReceiptFields {
    /// The request's id, as in the ledger.
    pub id: String,
    /// The backend that answers.
    pub backend: String,
    /// Where that backend runs.
    #[serde(serialize_with = "locality")]
    pub locality: Locality,
    /// The model that answers, as the backend names it; before it has begun, as the caller wrote it.
    pub model: String,
    /// Why that backend.
    pub reason: String,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// Tokens, counted by the backend or, where its count never came, estimated.
    #[serde(serialize_with = "usage")]
    pub usage: Option<Usage>,
    /// Time to the first token.
    pub ttft_ms: Option<f64>,
    /// Time to the end.
    pub duration_ms: Option<f64>,
    /// Generated tokens for each second after the first one.
    pub tokens_per_second: Option<f64>,
    /// Measured energy of the local work.
    pub energy_joules: Option<f64>,
    /// Tokens that the local engine guessed ahead.
    pub drafted_tokens: Option<u64>,
    /// Those of them that were right.
    pub accepted_tokens: Option<u64>,
    /// Those that were right and came from the model's draft head.
    pub draft_head_tokens: Option<u64>,
    /// What the request cost, all its attempts together.
    #[serde(rename = "cost_usd", serialize_with = "dollars")]
    pub cost: Option<NanoDollars>,
    /// The name of the price behind the cost.
    pub price: Option<String>,
    /// What the same tokens would have cost at the reference price.
    pub counterfactual: Option<ReceiptCounterfactual>,
    /// The version of the local engine's arithmetic.
    pub numerics: Option<String>,
    /// The kernels that the local engine ran.
    pub kernels: Option<String>,
    /// The seed of the local engine's sampling: asked for again with it, the answer is the same.
    pub seed: Option<u64>,
}

/// A cost at another price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiptCounterfactual {
    /// The price's name.
    pub price: String,
    /// The cost at it.
    #[serde(rename = "cost_usd", serialize_with = "some_dollars")]
    pub cost: NanoDollars,
}

impl Receipt {
    /// The receipt of an answer that has not begun.
    pub(super) fn new(id: &str, backend: &str, locality: Locality, model: &str, reason: &str) -> Self {
        Self(Arc::new(Mutex::new(ReceiptFields {
            id: id.to_owned(),
            backend: backend.to_owned(),
            locality,
            model: model.to_owned(),
            reason: reason.to_owned(),
            outcome: None,
            usage: None,
            ttft_ms: None,
            duration_ms: None,
            tokens_per_second: None,
            energy_joules: None,
            drafted_tokens: None,
            accepted_tokens: None,
            draft_head_tokens: None,
            cost: None,
            price: None,
            counterfactual: None,
            numerics: None,
            kernels: None,
            seed: None,
        })))
    }

    /// What is known now.
    pub fn fields(&self) -> ReceiptFields {
        self.lock().clone()
    }

    /// Time to the first token, once it is there.
    pub(crate) fn ttft_ms(&self) -> Option<f64> {
        self.lock().ttft_ms
    }

    /// What is known now, as JSON; `None` when it has no form as such.
    pub(crate) fn to_json(&self) -> Option<Box<RawValue>> {
        to_raw_value(&*self.lock()).ok()
    }

    /// Whether the answer has ended, so that nothing will be added.
    pub fn is_complete(&self) -> bool {
        self.lock().outcome.is_some()
    }

    pub(super) fn change(&self, edit: impl FnOnce(&mut ReceiptFields)) {
        edit(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, ReceiptFields> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn locality<S: Serializer>(locality: &Locality, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(locality.as_str())
}

#[expect(clippy::ref_option, reason = "serde hands out references")]
fn usage<S: Serializer>(usage: &Option<Usage>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Tokens {
        #[serde(rename = "input_tokens")]
        input: u64,
        #[serde(rename = "cached_input_tokens")]
        cached_input: u64,
        #[serde(rename = "cache_write_tokens", skip_serializing_if = "Option::is_none")]
        cache_write: Option<u64>,
        #[serde(rename = "unattributed_tokens", skip_serializing_if = "Option::is_none")]
        unattributed: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
        #[serde(rename = "output_tokens")]
        output: u64,
        #[serde(rename = "reasoning_tokens")]
        reasoning: u64,
        measured: bool,
    }
    usage
        .map(|usage| Tokens {
            input: usage.input,
            cached_input: usage.cached_input,
            cache_write: Some(usage.cache_write.saturating_add(usage.cache_write_1h))
                .filter(|count| *count > 0),
            unattributed: Some(usage.unattributed).filter(|count| *count > 0),
            warning: usage.warning(),
            output: usage.output,
            reasoning: usage.reasoning,
            measured: usage.measured,
        })
        .serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands out references")]
fn dollars<S: Serializer>(amount: &Option<NanoDollars>, serializer: S) -> Result<S::Ok, S::Error> {
    amount.map(NanoDollars::dollars).serialize(serializer)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn some_dollars<S: Serializer>(amount: &NanoDollars, serializer: S) -> Result<S::Ok, S::Error> {
    amount.dollars().serialize(serializer)
}
