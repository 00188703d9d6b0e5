//! The ledger as its users see it: rows, sums, crashes and company.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so at once")]

mod crash;
mod rows;
mod support;
