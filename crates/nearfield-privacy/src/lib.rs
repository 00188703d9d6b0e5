//! Finds personal data, health identifiers and secrets in text, masks them, and restores what was masked.
//!
//! Everything here is a pure function of its input: no files, no network, no clock. Detection is patterns, check digits
//! and the words beside a value; names of persons and places are found where a model has listed them ([`Names`]).

mod checks;
mod context;
mod dates;
mod detector;
mod entity;
mod figures;
mod form;
mod hmac;
mod json;
mod labelled;
mod lettered;
mod mask;
mod names;
mod net;
mod number;
mod phone;
mod restore;
mod secrets;
mod survey;
mod terms;

pub use detector::Detector;
pub use entity::{ClassSet, DataClass, Entity, Span};
pub use hmac::HashKey;
pub use json::each_text;
pub use mask::{MaskError, Masked, Masker, Treatment, Treatments};
pub use names::{Names, NamesError};
pub use restore::{Restorer, Vault};
pub use survey::Survey;
pub use terms::{Format, TermError};
