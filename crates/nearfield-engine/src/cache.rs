//! The paged cache of keys and values: one pool of pages, a page table for each sequence.

use nearfield_kernels::{KeyValueLayout, KeyValueType, PAGE_POSITIONS, PagedKeyValues};
use nearfield_model::Architecture;

use crate::recurrent::{RecurrentState, Snapshot};

/// A sequence's place in the cache.
#[derive(Debug)]
pub struct Sequence {
    pages: Vec<u32>,
    length: usize,
    state: RecurrentState,
}

impl Sequence {
    /// Positions that hold tokens.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Positions that are reserved.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE_POSITIONS
    }

    pub(crate) fn advance(&mut self, count: usize) {
        self.length += count;
        self.state.advance(count);
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
        Snapshot { length: self.length, state: self.state.clone() }
    }

    /// Returns to a point of the same sequence that was noted before; what came later is forgotten. It says whether that
    /// was possible: not when the sequence has been cut below that point meanwhile.
    pub fn restore(&mut self, snapshot: &Snapshot) -> bool {
        let possible = snapshot.length <= self.length;
        if possible {
            self.length = snapshot.length;
            self.state.clone_from(&snapshot.state);
        }
        possible
    }

    /// Forgets everything from `length` on; the pages stay reserved. A sequence of a recurrent model cannot go on from
    /// there: that takes a snapshot.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }
}

/// All pages of all layers. Memory is touched, and so taken, only as pages are written.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<Layer>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Layer {
    layout: KeyValueLayout,
    /// Pages of this layer, as words so that they are aligned.
    words: Vec<u32>,
}

impl Cache {
    pub(crate) fn new(architecture: &Architecture, kind: KeyValueType, positions: usize) -> Self {
        let pages = positions.div_ceil(PAGE_POSITIONS);
        let layers = architecture
            .all_layers()
            .map(|layer| match layer.cached() {
                Some(layer) => {
                    let layout = KeyValueLayout::new(kind, layer.key_value_heads, layer.head_size);
                    Layer { layout, words: vec![0; (pages * layout.page_bytes()).div_ceil(4)] }
                }
                None => Layer { layout: KeyValueLayout::new(kind, 0, 0), words: Vec::new() },
            })
            .collect();
        Self { layers, free: (0..pages as u32).rev().collect() }
    }

    /// Positions that are not reserved.
    pub(crate) fn free_positions(&self) -> usize {
        self.free.len() * PAGE_POSITIONS
    }

    /// Reserves room for `positions`; `None` when there is not enough.
    pub(crate) fn reserve(&mut self, positions: usize) -> Option<Sequence> {
        let count = positions.div_ceil(PAGE_POSITIONS);
        let left = self.free.len().checked_sub(count)?;
        Some(Sequence { pages: self.free.split_off(left), length: 0, state: RecurrentState::default() })
    }

    /// Gives a sequence's pages back.
    pub(crate) fn release(&mut self, sequence: Sequence) {
        self.free.extend(sequence.pages);
    }

    pub(crate) fn layout(&self, layer: usize) -> KeyValueLayout {
        self.layers[layer].layout
    }

    /// The pages of a layer, for reading.
    pub(crate) fn view<'a>(&'a self, layer: usize, sequence: &'a Sequence) -> PagedKeyValues<'a> {
        let Layer { layout, words } = &self.layers[layer];
        // SAFETY: words are plain bytes, four each.
        let pages = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 4) };
        PagedKeyValues { pages, table: sequence.pages(), layout: *layout }
    }

    /// The bytes of a layer, for writing.
    pub(crate) fn bytes_mut(&mut self, layer: usize) -> &mut [u8] {
        let words = &mut self.layers[layer].words;
        // SAFETY: words are plain bytes, four each.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * 4) }
    }
}
