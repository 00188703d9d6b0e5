//! The paged cache of keys and values: one pool of pages, a page table for each sequence, and blocks that sequences with
//! the same beginning share.
//!
//! A sequence reserves what it may need when it is opened, and takes pages as it grows. Shared blocks lie in the same
//! pool: what no sequence uses is forgotten when its page is needed, or when all of them exceed their budget.

mod beginnings;
mod disk;
mod prefix;
mod sequence;

use nearfield_kernels::{KeyValueLayout, KeyValueType, LargeMemory, PAGE_POSITIONS, PagedKeyValues};
use nearfield_model::Architecture;

use disk::DiskTier;
pub use disk::{PrefixFile, PrefixFiles, prefix_file_is_whole, prefix_files};
pub use prefix::CacheDomain;
pub(crate) use prefix::ENTRY_BYTES;
use prefix::{Place, PrefixTree};
pub(crate) use sequence::Guesses;
pub use sequence::Sequence;

/// Bytes of a layer that lie in pages of the usual size: short conversations take no more memory than they need.
const SMALL_PAGES: usize = 2 << 20;

/// Recurrent states that are kept for later requests, for this many sequences at once. They are large.
pub(crate) fn kept_states(slots: usize) -> usize {
    (2 * slots).min(8)
}

/// How blocks have been shared since a runner was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounters {
    /// Tokens that sequences took over instead of computing them.
    pub hit_tokens: u64,
    /// Of these, tokens that were read from files.
    pub disk_tokens: u64,
    /// Blocks that were put into the tree.
    pub stored_blocks: u64,
    /// Blocks that were forgotten to make room.
    pub evicted_blocks: u64,
    /// Blocks that are there now.
    pub blocks: usize,
}

/// All pages of all layers. Memory is touched, and so taken, only as pages are written.
#[derive(Debug)]
pub(crate) struct Cache {
    kind: KeyValueType,
    layers: Vec<Layer>,
    free: Vec<u32>,
    /// Pages that are not promised to any sequence.
    unpromised: usize,
    tree: PrefixTree,
    /// Most blocks in the tree while some of them are idle.
    budget: usize,
    /// Most recurrent states in the tree.
    states: usize,
    /// The second tier.
    disk: Option<DiskTier>,
    counters: PrefixCounters,
}

#[derive(Debug)]
struct Layer {
    layout: KeyValueLayout,
    /// Pages of this layer.
    memory: LargeMemory,
}

impl Cache {
    /// # Errors
    /// When the system refuses the address space.
    pub(crate) fn new(
        architecture: &Architecture,
        kind: KeyValueType,
        positions: usize,
    ) -> std::io::Result<Self> {
        let pages = positions.div_ceil(PAGE_POSITIONS);
        let layers = architecture
            .all_layers()
            .map(|layer| {
                let layout = layer.cached().map_or_else(
                    || KeyValueLayout::new(kind, 0, 0),
                    |layer| {
                        KeyValueLayout::new(kind, layer.key_value_heads, layer.head_size)
                            .with_scales(layer.cache_scales)
                    },
                );
                Ok(Layer { layout, memory: LargeMemory::new(pages * layout.page_bytes(), SMALL_PAGES)? })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            kind,
            layers,
            free: (0..pages as u32).rev().collect(),
            unpromised: pages,
            tree: PrefixTree::default(),
            budget: pages,
            states: kept_states(usize::MAX / 2),
            disk: None,
            counters: PrefixCounters::default(),
        })
    }

    /// Limits the bytes of shared blocks. What sequences use stays, whatever the limit.
    pub(crate) fn limit_shared(&mut self, bytes: u64) {
        let page: usize = self.layers.iter().map(|layer| layer.layout.page_bytes()).sum();
        self.budget = usize::try_from(bytes / page.max(1) as u64).unwrap_or(usize::MAX);
        self.keep_budget();
    }

    /// Limits the recurrent states that are kept.
    pub(crate) fn limit_states(&mut self, states: usize) {
        self.states = states;
    }

    /// Element type of keys and values.
    pub(crate) fn kind(&self) -> KeyValueType {
        self.kind
    }

    /// Positions that are not reserved.
    pub(crate) fn free_positions(&self) -> usize {
        self.unpromised * PAGE_POSITIONS
    }

    pub(crate) fn counters(&self) -> PrefixCounters {
        PrefixCounters { blocks: self.tree.len(), ..self.counters }
    }

    /// Reserves room for `positions`; `None` when there is not enough.
    pub(crate) fn reserve(&mut self, domain: Option<CacheDomain>, positions: usize) -> Option<Sequence> {
        let reserved = positions.div_ceil(PAGE_POSITIONS);
        self.unpromised = self.unpromised.checked_sub(reserved)?;
        Some(Sequence::new(domain, reserved))
    }

    /// Gives a sequence pages for its first `length` positions, which must be within its capacity.
    ///
    /// There is a page for it: sequences have at most what they reserved, all reservations together are at most the
    /// pool, and a page that no sequence has is free or in a block that can be forgotten. `false` is a fault of ours.
    pub(crate) fn extend(&mut self, sequence: &mut Sequence, length: usize) -> bool {
        while sequence.pages.len() * PAGE_POSITIONS < length {
            let Some(page) = self.free.pop().or_else(|| self.evict()) else { return false };
            sequence.pages.push(page);
        }
        true
    }

    /// Takes over the blocks that hold the tokens that are to follow in a sequence, all but the last one, and says how
    /// many tokens they are. Only at the end of what is shared already: elsewhere it takes nothing. Where the model has
    /// recurrent layers it ends at a block with whose end their state was kept.
    pub(crate) fn resume(&mut self, sequence: &mut Sequence, following: &[u32]) -> usize {
        if !sequence.ends_with_shared() {
            return 0;
        }
        let usable = following[..following.len().saturating_sub(1)].chunks_exact(PAGE_POSITIONS);
        let (mut place, mut path) = (sequence.next_place(), Vec::new());
        for block in usable.clone().take(sequence.reserved - sequence.shared) {
            let Some(page) = place.take().and_then(|place| self.tree.find(place, block)) else { break };
            place = Some(Place::After(page));
            path.push(page);
        }
        if !sequence.state().is_empty() {
            sequence.rest_after(path.len(), following.len());
            let reached = path.iter().rposition(|page| self.tree.state(*page).is_some());
            path.truncate(reached.map_or(0, |last| last + 1));
            if let Some(state) = path.last().and_then(|page| self.tree.state(*page)) {
                sequence.state_mut().clone_from(state);
            }
        }
        let held = sequence.held();
        for (page, block) in path.iter().zip(usable) {
            sequence.take(*page, block);
        }
        self.move_hold(held, sequence.held());
        let taken = path.len() * PAGE_POSITIONS;
        let read = self.read_beginning(sequence, &following[taken..]);
        self.counters.hit_tokens += (taken + read) as u64;
        self.counters.disk_tokens += read as u64;
        taken + read
    }

    /// Shares a sequence's whole blocks with others of its domain. From now on they cannot be truncated.
    pub(crate) fn share(&mut self, sequence: &mut Sequence) {
        let held = sequence.held();
        while (sequence.shared + 1) * PAGE_POSITIONS <= sequence.length() {
            let Some(place) = sequence.next_place() else { return };
            let index = sequence.shared;
            let block = &sequence.tokens()[index * PAGE_POSITIONS..][..PAGE_POSITIONS];
            if let Some(same) = self.tree.find(place.clone(), block) {
                // Another sequence was faster. Its page holds the same bytes.
                self.free.push(std::mem::replace(&mut sequence.pages[index], same));
            } else {
                self.tree.insert(place, block, sequence.pages[index]);
                self.counters.stored_blocks += 1;
            }
            sequence.shared += 1;
        }
        self.move_hold(held, sequence.held());
        if sequence.keeps_state()
            && let Some(page) = sequence.held()
        {
            self.tree.keep_state(page, sequence.state(), self.states);
            // Of an answer the last point is enough: a conversation goes on from its end.
            if sequence.in_answer()
                && let Some(before) = sequence.latest.replace(page).filter(|before| *before != page)
            {
                self.tree.forget_state(before);
            }
        }
        self.keep_budget();
    }

    /// Ends a sequence: its own pages are free, its shared ones stay in the tree.
    pub(crate) fn release(&mut self, sequence: Sequence) {
        self.write_beginning(&sequence);
        self.unpromised += sequence.reserved;
        if let Some(held) = sequence.held() {
            self.tree.let_go(held);
        }
        // The first page is the next to be used.
        self.free.extend(sequence.pages[sequence.shared..].iter().rev());
        self.keep_budget();
    }

    fn move_hold(&mut self, from: Option<u32>, to: Option<u32>) {
        if from != to {
            if let Some(page) = to {
                self.tree.hold(page);
            }
            if let Some(page) = from {
                self.tree.let_go(page);
            }
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let page = self.tree.evict()?;
        self.counters.evicted_blocks += 1;
        Some(page)
    }

    fn keep_budget(&mut self) {
        while self.tree.len() > self.budget
            && let Some(page) = self.evict()
        {
            self.free.push(page);
        }
    }

    pub(crate) fn layout(&self, layer: usize) -> KeyValueLayout {
        self.layers[layer].layout
    }

    /// The pages of a layer, for reading.
    pub(crate) fn view<'a>(&'a self, layer: usize, sequence: &'a Sequence) -> PagedKeyValues<'a> {
        let Layer { layout, memory } = &self.layers[layer];
        PagedKeyValues { pages: memory.bytes(), table: sequence.pages(), layout: *layout }
    }

    /// The bytes of a layer, for writing.
    pub(crate) fn bytes_mut(&mut self, layer: usize) -> &mut [u8] {
        self.layers[layer].memory.bytes_mut()
    }
}

#[cfg(test)]
mod tests;
