//! Beginnings of sequences on their way to files and back.

use std::io;

use nearfield_kernels::PAGE_POSITIONS;

use super::disk::{DiskTier, Name, PrefixFiles};
use super::{Cache, Sequence};
use crate::recurrent::RecurrentState;

impl Cache {
    /// Keeps beginnings in files too. `layout` says everything besides the model on which their bytes depend.
    pub(crate) fn keep_files(&mut self, files: &PrefixFiles, layout: &str) -> io::Result<()> {
        self.disk = Some(DiskTier::open(files, layout)?);
        Ok(())
    }

    /// Reads further blocks of the tokens that are to follow from a file, and says how many tokens they are.
    pub(super) fn read_beginning(&mut self, sequence: &mut Sequence, following: &[u32]) -> usize {
        let Some((blocks, name)) = self.longest_on_disk(sequence, following) else { return 0 };
        let (shared, taken) = (sequence.shared, &following[..blocks * PAGE_POSITIONS]);
        if !self.extend(sequence, (shared + blocks) * PAGE_POSITIONS) {
            return 0;
        }
        let tokens = [sequence.tokens(), taken].concat();
        let (disk, mut state) = (self.disk.take(), sequence.state().clone());
        state.advance(taken.len());
        let size = self.beginning_bytes(sequence.pages.len(), &state);
        let whole = disk.as_ref().is_some_and(|disk| {
            disk.read(name, &tokens, size, |next| self.take_beginning(sequence, &mut state, next))
        });
        self.disk = disk;
        if !whole {
            self.free.extend(sequence.pages.drain(shared..).rev());
            return 0;
        }
        sequence.take_read(taken, state);
        self.share(sequence);
        if !sequence.state().is_empty()
            && let Some(page) = sequence.held()
        {
            self.tree.keep_state(page, sequence.state(), self.states);
        }
        taken.len()
    }

    /// The most blocks after those of a sequence that a file holds, and its name.
    fn longest_on_disk(&self, sequence: &Sequence, following: &[u32]) -> Option<(usize, Name)> {
        let disk = self.disk.as_ref()?;
        let mut names = disk.names(sequence.domain()?)?;
        for block in sequence.tokens().chunks_exact(PAGE_POSITIONS) {
            names.follow(block);
        }
        let usable = following[..following.len().saturating_sub(1)].chunks_exact(PAGE_POSITIONS);
        let room = sequence.reserved - sequence.shared;
        let named: Vec<Name> = usable.take(room).map(|block| names.follow(block)).collect();
        let last = named.iter().rposition(|name| disk.has(*name))?;
        Some((last + 1, named[last]))
    }

    /// Bytes of so many pages of all layers and of a state.
    fn beginning_bytes(&self, pages: usize, state: &RecurrentState) -> usize {
        let page: usize = self.layers.iter().map(|layer| layer.layout.page_bytes()).sum();
        pages * page + state.parts().map(|part| 4 * part.len()).sum::<usize>()
    }

    /// Fills a sequence's pages that nobody shares yet, and a state, with what a file holds.
    fn take_beginning(
        &mut self,
        sequence: &Sequence,
        state: &mut RecurrentState,
        next: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for layer in 0..self.layers.len() {
            let size = self.layers[layer].layout.page_bytes();
            bytes.resize(size, 0);
            for (number, page) in sequence.pages.iter().enumerate() {
                if number < sequence.shared {
                    next(&mut bytes)?;
                } else {
                    next(&mut self.bytes_mut(layer)[*page as usize * size..][..size])?;
                }
            }
        }
        for part in state.parts_mut() {
            bytes.resize(4 * part.len(), 0);
            next(&mut bytes)?;
            for (value, bytes) in part.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }

    /// Has the longest beginning of a sequence written from which another can go on.
    pub(super) fn write_beginning(&self, sequence: &Sequence) {
        let (Some(disk), Some(domain)) = (&self.disk, sequence.domain()) else { return };
        let shared = &sequence.pages[..sequence.shared];
        let blocks = if sequence.state().is_empty() {
            shared.len()
        } else {
            shared.iter().rposition(|page| self.tree.state(*page).is_some()).map_or(0, |last| last + 1)
        };
        let (Some(mut names), Some(last)) = (disk.names(domain), blocks.checked_sub(1)) else { return };
        let tokens = &sequence.tokens()[..blocks * PAGE_POSITIONS];
        let Some(name) = tokens.chunks_exact(PAGE_POSITIONS).map(|block| names.follow(block)).last() else {
            return;
        };
        let none = RecurrentState::default();
        let state = self.tree.state(shared[last]).unwrap_or(&none);
        disk.keep(name, tokens, self.beginning_bytes(blocks, state), |out| {
            for (index, layer) in self.layers.iter().enumerate() {
                let (pages, size) = (self.view(index, sequence).pages, layer.layout.page_bytes());
                for page in &shared[..blocks] {
                    out.extend_from_slice(&pages[*page as usize * size..][..size]);
                }
            }
            for value in state.parts().flatten() {
                out.extend_from_slice(&value.to_le_bytes());
            }
        });
    }
}
