//! One attempt that is under way, and what it comes to when it ends before it has answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_api::{Usage, Work};
use nearfield_store::{AttemptEnd, Outcome};
use tokio::time::Instant;

use super::circuits::Permit;
use super::pricing::{Pricing, Seller};

/// The attempt.
pub(super) struct Lane {
    pub(super) backend: String,
    pub(super) seller: Seller,
    /// The model, by the backend's own name.
    pub(super) model: String,
    /// Its place in the plan's candidate set.
    pub(super) candidate: usize,
    /// Its place in the row.
    pub(super) position: u32,
    pub(super) permit: Permit,
    pub(super) began: Instant,
    /// Pieces of the answer so far.
    pub(super) pieces: Arc<AtomicU64>,
    /// Why it answers, where it was asked beside a slow one.
    pub(super) beside: Option<String>,
}

impl Lane {
    /// Whether anything of an answer has come.
    pub(super) fn answers(&self) -> bool {
        self.pieces.load(Ordering::Relaxed) > 0
    }

    /// What it took until now, as far as it can be told.
    pub(super) fn estimate(&self, prompt_tokens: u64) -> Usage {
        let output = self.pieces.load(Ordering::Relaxed);
        Usage { input: prompt_tokens, output, measured: false, ..Usage::NONE }
    }

    /// Its end, with the cost of what it took. `model` is what the backend called the model, where it said so.
    pub(super) fn ended(
        &self,
        pricing: &Pricing,
        outcome: Outcome,
        usage: Option<Usage>,
        model: Option<&str>,
    ) -> AttemptEnd {
        let work = Work { busy: self.began.elapsed(), ..Work::default() };
        let model = model.unwrap_or(&self.model);
        let priced = usage.and_then(|usage| pricing.cost(&self.seller, model, &usage, Some(&work)));
        let (cost, price) = priced.unzip();
        AttemptEnd { outcome, usage, cost, price }
    }
}
