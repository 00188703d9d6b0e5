//! The tree of blocks that sequences share.
//!
//! A block is one page with its 32 tokens; its place in the tree is its domain and all tokens before it. Whoever reads
//! the same tokens from the start finds the same blocks. A sequence holds the deepest block of its path, which keeps the
//! whole path; a block that nobody holds and that nothing follows is idle, and the idle block that was used longest ago
//! goes first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::recurrent::RecurrentState;

/// An upper bound of the memory that a block's entry takes beside its page.
pub(crate) const ENTRY_BYTES: u64 = 512;

/// Those who may share blocks. A prompt matches nothing that was read in another domain, so that the time of an answer
/// tells nobody of others' prompts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheDomain(Name);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    Shared(Arc<str>),
    /// One request on its own.
    Request(u64),
}

impl CacheDomain {
    /// The domain of this name.
    pub fn new(name: &str) -> Self {
        Self(Name::Shared(name.into()))
    }

    /// Its name; `None` for a request on its own.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.0 {
            Name::Shared(name) => Some(name),
            Name::Request(_) => None,
        }
    }

    /// A domain that no name can stand for.
    pub(crate) fn of_request(number: u64) -> Self {
        Self(Name::Request(number))
    }
}

impl Default for CacheDomain {
    /// The domain without a name: right where there is one user.
    fn default() -> Self {
        Self::new("")
    }
}

/// What a block follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Nothing: it is the first of its domain.
    Start(CacheDomain),
    /// The block in this page.
    After(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    place: Place,
    tokens: Arc<[u32]>,
}

#[derive(Debug)]
struct Block {
    key: Key,
    /// Blocks that follow this one.
    children: u32,
    /// Sequences whose path ends here.
    holders: u32,
    /// When it was last held, in steps of the tree's own clock.
    used: u64,
}

/// All shared blocks, by page.
#[derive(Debug, Default)]
pub(crate) struct PrefixTree {
    pages: HashMap<Key, u32>,
    blocks: HashMap<u32, Block>,
    /// Blocks that may go, by last use.
    idle: BTreeSet<(u64, u32)>,
    /// Recurrent states after the last token of a block.
    states: HashMap<u32, RecurrentState>,
    clock: u64,
}

impl PrefixTree {
    /// Number of blocks.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The page that holds these tokens at this place.
    pub(crate) fn find(&self, place: Place, tokens: &[u32]) -> Option<u32> {
        self.pages.get(&Key { place, tokens: tokens.into() }).copied()
    }

    /// Puts a page into the tree, at a place where [`PrefixTree::find`] finds nothing and whose parent somebody holds.
    pub(crate) fn insert(&mut self, place: Place, tokens: &[u32], page: u32) {
        if let Place::After(parent) = place
            && let Some(before) = self.blocks.get_mut(&parent)
        {
            before.children += 1;
            self.idle.remove(&(before.used, parent));
        }
        let key = Key { place, tokens: tokens.into() };
        self.pages.insert(key.clone(), page);
        self.blocks.insert(page, Block { key, children: 0, holders: 0, used: self.clock });
        self.idle.insert((self.clock, page));
    }

    /// The recurrent state after a block, where it was kept.
    pub(crate) fn state(&self, page: u32) -> Option<&RecurrentState> {
        self.states.get(&page)
    }

    /// Keeps the recurrent state after a block. Of more than `most`, the one whose block was used longest ago goes.
    pub(crate) fn keep_state(&mut self, page: u32, state: &RecurrentState, most: usize) {
        if most == 0 || self.states.contains_key(&page) {
            return;
        }
        if self.states.len() >= most
            && let Some(oldest) = self.states.keys().copied().min_by_key(|page| self.used(*page))
        {
            self.states.remove(&oldest);
        }
        self.states.insert(page, state.clone());
    }

    pub(crate) fn forget_state(&mut self, page: u32) {
        self.states.remove(&page);
    }

    fn used(&self, page: u32) -> Option<u64> {
        self.blocks.get(&page).map(|block| block.used)
    }

    /// Keeps a block and all before it.
    pub(crate) fn hold(&mut self, page: u32) {
        self.clock += 1;
        let Some(block) = self.blocks.get_mut(&page) else { return };
        self.idle.remove(&(block.used, page));
        block.holders += 1;
        block.used = self.clock;
    }

    /// Ends a hold.
    pub(crate) fn let_go(&mut self, page: u32) {
        self.clock += 1;
        let Some(block) = self.blocks.get_mut(&page) else { return };
        block.holders = block.holders.saturating_sub(1);
        block.used = self.clock;
        if block.holders == 0 && block.children == 0 {
            self.idle.insert((block.used, page));
        }
    }

    /// Forgets the idle block that was used longest ago and gives its page; `None` when none is idle.
    pub(crate) fn evict(&mut self) -> Option<u32> {
        let (used, page) = self.idle.pop_first()?;
        let block = self.blocks.remove(&page)?;
        self.pages.remove(&block.key);
        self.states.remove(&page);
        if let Place::After(parent) = block.key.place
            && let Some(before) = self.blocks.get_mut(&parent)
        {
            before.children = before.children.saturating_sub(1);
            // Whoever used the block has used what comes before it.
            before.used = before.used.max(used);
            if before.holders == 0 && before.children == 0 {
                self.idle.insert((before.used, parent));
            }
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(name: &str) -> Place {
        Place::Start(CacheDomain::new(name))
    }

    #[test]
    fn a_block_is_found_by_domain_place_and_tokens() {
        let mut tree = PrefixTree::default();
        tree.insert(start("a"), &[1, 2], 7);
        tree.insert(Place::After(7), &[1, 2], 8);
        assert_eq!(tree.find(start("a"), &[1, 2]), Some(7));
        assert_eq!(tree.find(Place::After(7), &[1, 2]), Some(8));
        for (place, tokens) in [(start("b"), [1, 2]), (start("a"), [2, 1]), (Place::After(8), [1, 2])] {
            assert_eq!(tree.find(place, &tokens), None);
        }
        assert_ne!(CacheDomain::of_request(1), CacheDomain::of_request(2));
        assert_eq!(tree.find(Place::Start(CacheDomain::of_request(0)), &[1, 2]), None);
        assert_eq!(tree.len(), 2);
    }

    #[test]
    fn leaves_go_first_and_the_longest_unused_of_them() {
        let mut tree = PrefixTree::default();
        // Two paths: 0, 1, 2 and 0, 3.
        tree.insert(start(""), &[0], 0);
        for (parent, page) in [(0, 1), (1, 2), (0, 3)] {
            tree.insert(Place::After(parent), &[page], page);
        }
        for leaf in [2, 3] {
            tree.hold(leaf);
        }
        assert_eq!(tree.evict(), None, "what is held stays, and what it follows");
        tree.let_go(3);
        tree.let_go(2);
        tree.hold(3);
        tree.let_go(3);
        let order: Vec<u32> = std::iter::from_fn(|| tree.evict()).collect();
        assert_eq!(order, [2, 1, 3, 0]);
        assert_eq!((tree.len(), tree.idle.len(), tree.pages.len()), (0, 0, 0));
    }

    #[test]
    fn two_holders_are_two() {
        let mut tree = PrefixTree::default();
        tree.insert(start(""), &[0], 5);
        tree.hold(5);
        tree.hold(5);
        tree.let_go(5);
        assert_eq!(tree.evict(), None);
        tree.let_go(5);
        assert_eq!(tree.evict(), Some(5));
        assert_eq!(tree.find(start(""), &[0]), None);
    }
}
