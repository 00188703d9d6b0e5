//! What keys may still spend in this month: read from the ledger once, then kept as requests come and end.
//!
//! What a request may cost is set aside when it is admitted and replaced by what it did cost when its row is closed, so
//! that requests that run at the same time cannot spend the same dollar. Where the cost stays unknown, what was set
//! aside counts as spent; the ledger's rows say the same after a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{Timestamp, Zoned};
use nearfield_store::{Ledger, NanoDollars};

/// The most keys whose months are remembered; beyond them all are read from the ledger again.
const MAX_KEYS: usize = 4096;

/// The months of all keys that have a limit.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<String, Arc<Month>>>);

/// What one key has spent in one month of the local calendar, with what is set aside.
#[derive(Debug)]
pub(super) struct Month {
    began: Timestamp,
    spent: Mutex<NanoDollars>,
}

impl Budgets {
    /// The month of a key; `None` when the ledger cannot say what was spent.
    pub(super) async fn month(&self, ledger: &Ledger, key_id: &str, now: &Zoned) -> Option<Arc<Month>> {
        let began = now.first_of_month().ok()?.start_of_day().ok()?.timestamp();
        if let Some(month) = self.known(key_id, began) {
            return Some(month);
        }
        let spent = match ledger.spent(key_id, began).await {
            Ok(spent) => Mutex::new(spent),
            Err(error) => {
                tracing::error!(%error, "what a key has spent cannot be read; its requests stay on this machine");
                return None;
            }
        };
        let mut months = self.lock();
        if months.len() >= MAX_KEYS {
            months.retain(|_, month| Arc::strong_count(month) > 1);
        }
        // Another request may have read it meanwhile, and set something aside that this sum does not have.
        if let Some(month) = months.get(key_id).filter(|month| month.began == began) {
            return Some(Arc::clone(month));
        }
        let month = Arc::new(Month { began, spent });
        months.insert(key_id.to_owned(), Arc::clone(&month));
        Some(month)
    }

    /// Has every month read from the ledger again: while rules limit nothing, nobody keeps the sums.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn known(&self, key_id: &str, began: Timestamp) -> Option<Arc<Month>> {
        self.lock().get(key_id).filter(|month| month.began == began).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Month>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Month {
    /// Decides with the sum that is spent, while nobody else changes it, and sets aside what the decision says.
    pub(super) fn decide<T>(
        &self,
        decide: impl FnOnce(NanoDollars) -> (T, Option<NanoDollars>),
    ) -> (T, Option<NanoDollars>) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let (decided, reserved) = decide(*spent);
        *spent = *spent + reserved.unwrap_or_default();
        (decided, reserved)
    }

    /// Puts the cost in the place of what was set aside; an unknown cost leaves that.
    pub(super) fn settle(&self, reserved: NanoDollars, cost: Option<NanoDollars>) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = (*spent + cost.unwrap_or(reserved)).minus(reserved);
    }
}
