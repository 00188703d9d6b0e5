//! Detection and masking from outside, on public and drawn texts.

mod accuracy;
mod masking;
mod score;
