//! All texts of a vocabulary in one byte arena, and a hash index from text to id.

use std::hash::{BuildHasher, RandomState};

/// Marks the absence of a token where an id is stored.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Texts by id: one arena, one offset per token.
#[derive(Debug, Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    /// End of each text; text `i` starts where text `i - 1` ends.
    ends: Vec<u32>,
}

impl Arena {
    pub(super) fn with_capacity(tokens: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(tokens) }
    }

    /// Appends the text of the next id. False when the arena would pass 4 GiB.
    #[must_use]
    pub(super) fn push(&mut self, text: impl IntoIterator<Item = u8>) -> bool {
        self.bytes.extend(text);
        match u32::try_from(self.bytes.len()) {
            Ok(end) => {
                self.ends.push(end);
                true
            }
            Err(_) => false,
        }
    }

    /// Text of `id`, or `None` outside the vocabulary.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        let end = *self.ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.bytes.get(start..end)
    }
}

/// Hash of byte strings and of pairs, seeded per table so that a crafted vocabulary cannot aim at collisions.
#[derive(Debug, Clone, Copy)]
struct Seed(u64, u64);

impl Seed {
    fn random() -> Self {
        let state = RandomState::new();
        Self(state.hash_one(1_u8) | 1, state.hash_one(2_u8))
    }

    fn fold(self, state: u64, word: u64) -> u64 {
        let product = u128::from(state ^ word) * u128::from(self.0);
        (product as u64) ^ ((product >> 64) as u64)
    }

    fn of_bytes(self, bytes: &[u8]) -> u64 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut state = self.1 ^ (bytes.len() as u64);
        for word in words {
            state = self.fold(state.wrapping_add(0x9E37_79B9_7F4A_7C15), u64::from_le_bytes(*word));
        }
        let mut last = [0_u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.fold(state.wrapping_add(0x9E37_79B9_7F4A_7C15), u64::from_le_bytes(last))
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    fn of_pair(self, left: u32, right: u32) -> u64 {
        let pair = (u64::from(left) << 32) | u64::from(right);
        self.fold(self.1, pair).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}

/// Finds the id of a text. Open addressing; a slot holds half of the hash and the id, so that a probe rarely has to look
/// into the arena.
#[derive(Debug)]
pub(super) struct TextIndex {
    slots: Vec<u64>,
    mask: usize,
    seed: Seed,
}

const EMPTY: u64 = u64::MAX;

impl TextIndex {
    /// An index with room for `count` texts.
    pub(super) fn with_capacity(count: usize) -> Self {
        let slots = (count * 2).next_power_of_two().max(16);
        Self { slots: vec![EMPTY; slots], mask: slots - 1, seed: Seed::random() }
    }

    /// Enters the text of `id` in `arena`; the id that already has this text, if any.
    pub(super) fn insert(&mut self, arena: &Arena, id: u32) -> Option<u32> {
        let text = arena.get(id)?;
        let hash = self.seed.of_bytes(text);
        let mut place = hash as usize & self.mask;
        while let Some(&slot) = self.slots.get(place) {
            if slot == EMPTY {
                break;
            }
            if slot >> 32 == hash >> 32 && arena.get(slot as u32) == Some(text) {
                return Some(slot as u32);
            }
            place = (place + 1) & self.mask;
        }
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = (hash >> 32 << 32) | u64::from(id);
        }
        None
    }

    /// The id of `text`.
    pub(super) fn get(&self, arena: &Arena, text: &[u8]) -> Option<u32> {
        let hash = self.seed.of_bytes(text);
        let mut place = hash as usize & self.mask;
        loop {
            let slot = *self.slots.get(place)?;
            if slot == EMPTY {
                return None;
            }
            if slot >> 32 == hash >> 32 && arena.get(slot as u32) == Some(text) {
                return Some(slot as u32);
            }
            place = (place + 1) & self.mask;
        }
    }
}

/// What two neighbouring tokens merge into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) rank: u32,
    pub(super) id: u32,
}

/// Finds the merge of a pair of ids.
#[derive(Debug)]
pub(super) struct MergeIndex {
    slots: Vec<MergeSlot>,
    mask: usize,
    seed: Seed,
}

#[derive(Debug, Clone, Copy)]
struct MergeSlot {
    left: u32,
    right: u32,
    merge: Merge,
}

impl MergeIndex {
    /// An index with room for `count` merges.
    pub(super) fn with_capacity(count: usize) -> Self {
        let slots = (count + count / 2).next_power_of_two().max(16);
        let empty =
            MergeSlot { left: NO_TOKEN, right: NO_TOKEN, merge: Merge { rank: u32::MAX, id: NO_TOKEN } };
        Self { slots: vec![empty; slots], mask: slots - 1, seed: Seed::random() }
    }

    /// Enters a merge; a pair that is there already keeps its first rank.
    pub(super) fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        let mut place = self.seed.of_pair(left, right) as usize & self.mask;
        while let Some(slot) = self.slots.get_mut(place) {
            if slot.left == NO_TOKEN {
                *slot = MergeSlot { left, right, merge };
                return;
            }
            if slot.left == left && slot.right == right {
                return;
            }
            place = (place + 1) & self.mask;
        }
    }

    /// The merge of `left` and `right`.
    pub(super) fn get(&self, left: u32, right: u32) -> Option<Merge> {
        if left == NO_TOKEN {
            return None;
        }
        let mut place = self.seed.of_pair(left, right) as usize & self.mask;
        loop {
            let slot = self.slots.get(place)?;
            if slot.left == left && slot.right == right {
                return Some(slot.merge);
            }
            if slot.left == NO_TOKEN {
                return None;
            }
            place = (place + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_again_and_repeats_reported() {
        let mut arena = Arena::with_capacity(0, 0);
        let texts = ["", "a", "b", "ab", "a longer text than one word", "a longer text than one worD", "\0"];
        let mut index = TextIndex::with_capacity(texts.len());
        for (id, text) in texts.iter().enumerate() {
            assert!(arena.push(text.bytes()));
            assert_eq!(index.insert(&arena, id as u32), None);
        }
        for (id, text) in texts.iter().enumerate() {
            assert_eq!(index.get(&arena, text.as_bytes()), Some(id as u32));
        }
        assert_eq!(index.get(&arena, b"\0\0"), None);
        assert!(arena.push(*b"ab"));
        assert_eq!(index.insert(&arena, 7), Some(3));
        assert_eq!(arena.get(8), None);
    }

    #[test]
    fn merges_keep_the_first_rank() {
        let mut merges = MergeIndex::with_capacity(3);
        for (rank, (left, right)) in [(1, 2), (2, 1), (1, 2)].into_iter().enumerate() {
            merges.insert(left, right, Merge { rank: rank as u32, id: 9 });
        }
        assert_eq!(merges.get(1, 2).map(|merge| merge.rank), Some(0));
        assert_eq!(merges.get(2, 1).map(|merge| merge.rank), Some(1));
        assert_eq!(merges.get(1, 1), None);
        assert_eq!(merges.get(NO_TOKEN, NO_TOKEN), None);
    }
}
