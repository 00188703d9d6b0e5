//! A sequence's place in the cache.

use nearfield_kernels::PAGE_POSITIONS;

use super::prefix::{CacheDomain, Place};
use crate::recurrent::{RecurrentState, Snapshot};

/// A sequence's place in the cache.
#[derive(Debug)]
pub struct Sequence {
    /// Where its blocks may be shared; nowhere without one.
    domain: Option<CacheDomain>,
    /// What its positions hold.
    tokens: Vec<u32>,
    pub(super) pages: Vec<u32>,
    /// Its first pages, which stand in the tree: they are whole and nobody writes them.
    pub(super) shared: usize,
    /// Pages that it may come to have.
    pub(super) reserved: usize,
    state: RecurrentState,
    /// Positions of the prompt after which the recurrent state is to be kept.
    rests: [usize; 2],
    /// The block of its answer with whose end the recurrent state is kept.
    pub(super) latest: Option<u32>,
    /// Where what the state needs of its last tokens was kept, when these are guesses.
    guesses: Option<Guesses>,
}

/// Tokens that the recurrent state has not gone through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guesses {
    /// The place of the first among the rows that were kept.
    pub(crate) first: usize,
    /// The step that kept them.
    pub(crate) step: u64,
}

impl Sequence {
    pub(super) fn new(domain: Option<CacheDomain>, reserved: usize) -> Self {
        Self {
            domain,
            tokens: Vec::new(),
            pages: Vec::new(),
            shared: 0,
            reserved,
            state: RecurrentState::default(),
            rests: [0; 2],
            latest: None,
            guesses: None,
        }
    }

    pub(super) fn domain(&self) -> Option<&CacheDomain> {
        self.domain.as_ref()
    }

    /// Positions that hold tokens.
    pub fn length(&self) -> usize {
        self.tokens.len()
    }

    /// Positions that are reserved.
    pub fn capacity(&self) -> usize {
        self.reserved * PAGE_POSITIONS
    }

    /// The tokens that its positions hold.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn advance(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.state.advance(tokens.len());
        self.guesses = None;
    }

    /// Adds guesses; the recurrent state stays before them until they are settled.
    pub(crate) fn guess(&mut self, tokens: &[u32], guesses: Guesses) {
        self.tokens.extend_from_slice(tokens);
        self.guesses = Some(guesses);
    }

    pub(crate) fn guesses(&self) -> Option<Guesses> {
        self.guesses
    }

    /// The guesses up to `length` are settled.
    pub(crate) fn settled(&mut self, length: usize) {
        self.truncate(length);
        self.guesses = None;
    }

    /// Takes off the tokens from `length` on, to be put back.
    pub(crate) fn take_off(&mut self, length: usize) -> Vec<u32> {
        self.tokens.split_off(length.min(self.tokens.len()))
    }

    pub(crate) fn put_back(&mut self, mut tokens: Vec<u32>) {
        self.tokens.append(&mut tokens);
    }

    /// The recurrent state after its tokens.
    pub(crate) fn state(&self) -> &RecurrentState {
        &self.state
    }

    pub(crate) fn state_mut(&mut self) -> &mut RecurrentState {
        &mut self.state
    }

    /// The matrices of a recurrent layer's heads, `[value_heads][key_size][value_size]`; none for other layers.
    pub fn recurrent_heads(&self, layer: usize) -> &[f32] {
        self.state.heads(layer)
    }

    /// Notes the present point, to return to it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { length: self.length(), state: self.state.clone() }
    }

    /// Returns to a point of the same sequence that was noted before; what came later is forgotten. It says whether that
    /// was possible: not when the sequence has been cut below that point meanwhile, or has shared more since.
    pub fn restore(&mut self, snapshot: &Snapshot) -> bool {
        let possible = (self.shared * PAGE_POSITIONS..=self.length()).contains(&snapshot.length);
        if possible {
            self.tokens.truncate(snapshot.length);
            self.state.clone_from(&snapshot.state);
            self.guesses = None;
        }
        possible
    }

    /// Forgets everything from `length` on, except what has been shared: others may use that. The room stays reserved. A
    /// sequence of a recurrent model cannot go on from there: that takes a snapshot, or tokens that were fed as guesses.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length.max(self.shared * PAGE_POSITIONS));
    }

    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Where a piece of the prompt should end so that the recurrent state of that point can be kept; `None` when it does
    /// not matter.
    pub(crate) fn next_rest(&self) -> Option<usize> {
        self.rests.into_iter().filter(|rest| *rest > self.length()).min()
    }

    /// Notes those points: where its known part ends, and the last whole block of a prompt of which `following` tokens
    /// are left. The next requests are likely to part from this one at either.
    pub(super) fn rest_after(&mut self, known_blocks: usize, following: usize) {
        let last = (self.length() + following).saturating_sub(1) / PAGE_POSITIONS;
        self.rests = [self.shared + known_blocks, last].map(|blocks| blocks * PAGE_POSITIONS);
    }

    /// Whether the recurrent state of the present point is worth keeping: at such a point, and in an answer.
    pub(super) fn keeps_state(&self) -> bool {
        let length = self.length();
        !self.state.is_empty()
            && length == self.shared * PAGE_POSITIONS
            && (self.rests.contains(&length) || self.in_answer())
    }

    pub(super) fn in_answer(&self) -> bool {
        self.rests.iter().all(|rest| self.length() > *rest)
    }

    /// Whether it has whole shared blocks and nothing else.
    pub(super) fn ends_with_shared(&self) -> bool {
        self.pages.len() == self.shared && self.length() == self.shared * PAGE_POSITIONS
    }

    /// Takes over blocks that were read into its own pages, and the recurrent state after them.
    pub(super) fn take_read(&mut self, tokens: &[u32], state: RecurrentState) {
        self.tokens.extend_from_slice(tokens);
        self.state = state;
    }

    /// Takes over a shared block.
    pub(super) fn take(&mut self, page: u32, tokens: &[u32]) {
        self.pages.push(page);
        self.tokens.extend_from_slice(tokens);
        self.shared += 1;
    }

    /// The place of the block after the shared ones; `None` where nothing may be shared.
    pub(super) fn next_place(&self) -> Option<Place> {
        match self.held() {
            Some(last) => Some(Place::After(last)),
            None => self.domain.clone().map(Place::Start),
        }
    }

    /// The last shared block.
    pub(super) fn held(&self) -> Option<u32> {
        self.shared.checked_sub(1).map(|last| self.pages[last])
    }
}
