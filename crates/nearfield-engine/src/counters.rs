//! What an engine has done, in numbers.

use crate::cache::PrefixCounters;

/// What an engine has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Passes over the weights.
    pub steps: u64,
    /// Tokens fed in all of them, prompts included.
    pub rows: u64,
    /// Tokens of prompts among them.
    pub prompt_rows: u64,
    /// Pieces that prompts came in.
    pub prompt_pieces: u64,
    /// The most tokens fed in one step.
    pub most_rows: usize,
    /// The most answers that had a token in one step.
    pub most_decoding: usize,
    /// Tokens that were guessed and fed to be checked.
    pub drafted: u64,
    /// Those of them that were right.
    pub accepted: u64,
    /// Tokens that the model's draft head guessed, among those that were fed.
    pub head_drafted: u64,
    /// Those of them that were right.
    pub head_accepted: u64,
    /// What requests shared.
    pub prefix: PrefixCounters,
}
