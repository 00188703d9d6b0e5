//! Policy: which backends may answer a request, in which order, and what may send it from one to the next.
//!
//! Everything here is a pure function. The candidate set that [`decide`] returns is closed: whoever carries the
//! request out may stop early, never add.

pub mod attempts;
mod decision;
mod fallback;
pub mod names;
mod outgoing;
mod policy;
pub mod route;
pub mod rules;

pub use decision::{BackendFacts, Decision, Refusal, RequestFacts, decide, permitted};
pub use fallback::{Failure, fallback_reason};
pub use outgoing::{mask_request, survey_request};
pub use policy::{Policy, PolicyError, PolicyMode};
