//! The merge loop shared by tokenizers by rank and by score.
//!
//! Text starts as a chain of small symbols. The neighbouring pair with the best (lowest) priority, leftmost among equals,
//! becomes one symbol, until no pair can merge. Short chains are scanned for the best pair; long ones keep a heap, so that
//! a whole book costs n log n.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::table::{Merge, NO_TOKEN};

/// A piece of the text being merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// First byte in the text.
    pub(super) start: u32,
    /// Length in bytes.
    pub(super) length: u32,
    /// Its token, or [`NO_TOKEN`].
    pub(super) id: u32,
}

/// A link of the chain: the symbol, its neighbours, and the merge with the right neighbour.
#[derive(Debug, Clone, Copy)]
struct Link {
    symbol: Symbol,
    before: u32,
    after: u32,
    /// Rank of the merge with the next symbol; [`NO_MERGE`] when there is none.
    rank: u32,
    merged: u32,
}

const NO_MERGE: u32 = u32::MAX;
const END: u32 = u32::MAX;

/// Chains up to this length are scanned instead of kept in a heap.
const SCANNED: usize = 48;

/// Reusable memory of the merge loop.
#[derive(Debug, Default)]
pub(super) struct Merger {
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    /// Forgets the last text.
    pub(super) fn clear(&mut self) {
        self.links.clear();
        self.heap.clear();
    }

    /// Appends a symbol to the chain.
    pub(super) fn push(&mut self, symbol: Symbol) {
        let place = self.links.len() as u32;
        self.links.push(Link {
            symbol,
            before: place.checked_sub(1).unwrap_or(END),
            after: place + 1,
            rank: NO_MERGE,
            merged: NO_TOKEN,
        });
    }

    /// Merges until nothing can merge. `pair` gives the merge of two neighbours.
    pub(super) fn run(&mut self, pair: impl Fn(Symbol, Symbol) -> Option<Merge>) {
        if let Some(last) = self.links.last_mut() {
            last.after = END;
        }
        let heaped = self.links.len() > SCANNED;
        for place in 0..self.links.len() as u32 {
            self.refresh(place, &pair, heaped);
        }
        if heaped {
            while let Some(Reverse(entry)) = self.heap.pop() {
                let (rank, place) = ((entry >> 32) as u32, entry as u32);
                // An entry is stale when its pair is gone; an equal rank at the same place is the same work.
                if self.links.get(place as usize).is_some_and(|link| link.rank == rank) {
                    self.merge_at(place, &pair, true);
                }
            }
        } else {
            while let Some(place) = self.best() {
                self.merge_at(place, &pair, false);
            }
        }
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = Symbol> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let link = self.links.get(next as usize)?;
            next = link.after;
            Some(link.symbol)
        })
    }

    /// The leftmost pair of the best rank, by walking the chain.
    fn best(&self) -> Option<u32> {
        let (mut place, mut best, mut best_rank) = (0, None, NO_MERGE);
        while let Some(link) = self.links.get(place as usize) {
            if link.rank < best_rank {
                (best, best_rank) = (Some(place), link.rank);
            }
            place = link.after;
        }
        best
    }

    /// Joins the symbol at `place` with the next one.
    fn merge_at(&mut self, place: u32, pair: &impl Fn(Symbol, Symbol) -> Option<Merge>, heaped: bool) {
        let Some(&left) = self.links.get(place as usize) else { return };
        let Some(right) = self.links.get_mut(left.after as usize) else { return };
        right.rank = NO_MERGE;
        let right = *right;
        if let Some(link) = self.links.get_mut(place as usize) {
            link.symbol.length += right.symbol.length;
            link.symbol.id = left.merged;
            link.after = right.after;
        }
        if let Some(link) = self.links.get_mut(right.after as usize) {
            link.before = place;
        }
        self.refresh(place, pair, heaped);
        if left.before != END {
            self.refresh(left.before, pair, heaped);
        }
    }

    /// Looks up the merge of the symbol at `place` with its next one.
    fn refresh(&mut self, place: u32, pair: &impl Fn(Symbol, Symbol) -> Option<Merge>, heaped: bool) {
        let Some(&link) = self.links.get(place as usize) else { return };
        let next = self.links.get(link.after as usize).map(|link| link.symbol);
        let merge = next.and_then(|next| pair(link.symbol, next));
        let (rank, merged) = merge.map_or((NO_MERGE, NO_TOKEN), |merge| (merge.rank, merge.id));
        if let Some(link) = self.links.get_mut(place as usize) {
            (link.rank, link.merged) = (rank, merged);
        }
        if heaped && rank != NO_MERGE {
            self.heap.push(Reverse((u64::from(rank) << 32) | u64::from(place)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges by definition: find the best pair, replace it, start again.
    fn naive(mut ids: Vec<u32>, pair: impl Fn(u32, u32) -> Option<Merge>) -> Vec<u32> {
        loop {
            let best = (1..ids.len())
                .filter_map(|right| {
                    pair(ids[right - 1], ids[right]).map(|merge| (merge.rank, right, merge.id))
                })
                .min();
            let Some((_, right, id)) = best else { return ids };
            ids[right - 1] = id;
            ids.remove(right);
        }
    }

    proptest! {
        #[test]
        fn chain_equals_definition(ids in prop::collection::vec(0_u32..4, 0..120), salt in 0_u32..50) {
            // Any pair may merge into a larger id; ranks repeat, so that ties are met.
            let pair = |left: u32, right: u32| {
                let mixed = left.wrapping_mul(7).wrapping_add(right.wrapping_mul(13)).wrapping_add(salt);
                (mixed % 3 != 0 && left + right < 40).then_some(Merge { rank: mixed % 5, id: left + right + 1 })
            };
            let mut merger = Merger::default();
            for (place, &id) in ids.iter().enumerate() {
                merger.push(Symbol { start: place as u32, length: 1, id });
            }
            merger.run(|left, right| pair(left.id, right.id));
            let symbols: Vec<Symbol> = merger.symbols().collect();
            prop_assert_eq!(symbols.iter().map(|symbol| symbol.id).collect::<Vec<_>>(), naive(ids.clone(), pair));
            let mut next = 0;
            for symbol in &symbols {
                prop_assert_eq!(symbol.start, next);
                next += symbol.length;
            }
            prop_assert_eq!(next as usize, ids.len());
        }
    }
}
