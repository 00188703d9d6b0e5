//! Routing by how hard a prompt looks, and the measure of whether that is worth anything.
//!
//! A router gives each prompt a score; prompts above a threshold go to the strong model. Scores and thresholds are fitted
//! on other questions than they are judged on.

mod evaluate;
mod features;
mod ridge;

pub use evaluate::{Comparison, Curve, Evaluation, Question, RouterKind, evaluate};
pub use features::features;
