//! The ledger: one row for each request, whatever becomes of it.
//!
//! A request is admitted by one write to an append-only journal file, finished before any byte leaves the machine,
//! and its end is journalled within 10 ms, together with others: nobody waits for it. A writer carries the journal into
//! SQLite; nothing on a request's path waits for the database. Several processes may share one ledger: each has a journal
//! of its own, and the journals of processes that died are carried over by whoever opens the ledger next.

mod carry;
mod database;
mod error;
mod handle;
mod journal;
mod ledger;
mod money;
mod orphan;
mod prices;
mod query;
mod recent;
mod record;
mod row;
mod tariff;
mod writer;

pub use error::StoreError;
pub use handle::{AttemptEnd, AttemptStart, End, RowHandle};
pub use ledger::{Ledger, Recovery};
pub use money::NanoDollars;
pub use prices::{DEFAULT_REFERENCE, PriceError, PricedCost, Prices};
pub use row::{Admission, AttemptRow, Counterfactual, Filter, Outcome, Row, Summary, SummaryLine};
pub use tariff::Tariff;
