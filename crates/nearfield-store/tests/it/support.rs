//! What several tests need.

use std::path::Path;
use std::time::Duration;

use nearfield_api::{Locality, Usage};
use nearfield_store::{
    Admission, AttemptEnd, AttemptStart, Counterfactual, End, Ledger, NanoDollars, Outcome, Row, RowHandle,
};

pub(crate) fn admission(model: &str) -> Admission {
    Admission {
        key_id: Some("key-1".to_owned()),
        model: model.to_owned(),
        reason: "prefer-local".to_owned(),
        policy_hash: "0123456789abcdef".to_owned(),
        retention: Some("short".to_owned()),
        reserved: None,
    }
}

pub(crate) fn start(backend: &str, locality: Locality) -> AttemptStart {
    AttemptStart { backend: backend.to_owned(), locality, why: "prefer-local".to_owned(), bytes_out: 5 }
}

pub(crate) fn usage() -> Usage {
    Usage { input: 10, cached_input: 3, output: 7, reasoning: 2, measured: true, ..Usage::default() }
}

pub(crate) fn attempt_end(outcome: Outcome, cost: Option<i64>) -> AttemptEnd {
    AttemptEnd {
        outcome,
        usage: Some(usage()),
        cost: cost.map(NanoDollars),
        price: Some("openai/gpt-5.4-mini".to_owned()),
    }
}

pub(crate) fn end(outcome: Outcome) -> End {
    End {
        usage: Some(usage()),
        ttft: Some(Duration::from_millis(12)),
        counterfactual: Some(Counterfactual { price: "reference".to_owned(), cost: NanoDollars(500) }),
        energy_joules: Some(2.5),
        numerics: Some("1".to_owned()),
        ..End::bare(outcome)
    }
}

/// One whole request.
pub(crate) fn complete(ledger: &Ledger, model: &str, backend: &str, locality: Locality, cost: Option<i64>) {
    let mut row: RowHandle = ledger.admit(admission(model)).unwrap();
    row.attempt(start(backend, locality)).unwrap();
    row.finish(Some(attempt_end(Outcome::Done, cost)), end(Outcome::Done));
}

pub(crate) async fn all_rows(folder: &Path) -> Vec<Row> {
    let ledger = Ledger::open(folder).await.unwrap();
    let rows = ledger.rows(&nearfield_store::Filter::default()).await.unwrap();
    ledger.close().await.unwrap();
    rows
}

pub(crate) fn journal_files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("journal")).unwrap().count()
}
