//! Where unpackers read a block's bytes from: rows as they lie in a file, or a panel of sixteen rows.

use crate::activation::GROUP;
use crate::format::WeightFormat;
use crate::matmul::{WeightMatrix, prefetch, prefetch_far};
use crate::panel::{self, PANEL_ROWS};
use crate::simd::Simd;

/// Reads parts of block `block` of `ROWS` rows, rows in lanes. Offsets are those of the file's block, and constant where
/// the format is.
///
/// # Safety
/// Of every method: the CPU has `S`; the rows have this block; what is read lies inside it; a `quads` or `word` does not
/// touch the block's narrow field.
pub(crate) trait Source<S: Simd>: Copy {
    /// Sixteen bytes: four dwords of each row.
    unsafe fn quads(self, format: WeightFormat, block: usize, offset: usize) -> [S::I; 4];
    /// One dword of each row.
    unsafe fn word(self, format: WeightFormat, block: usize, offset: usize) -> S::I;
    /// The two-byte narrow field, an f16.
    unsafe fn narrow_half(self, format: WeightFormat, block: usize) -> S::F;
    /// The one-byte narrow field.
    unsafe fn narrow_byte(self, format: WeightFormat, block: usize) -> S::I;
    /// Asks for bytes that will be read after block `block`, where rows alone do not lead the hardware to them: those
    /// that fall to part `part`, so that requests are spread evenly.
    unsafe fn fetch_ahead(self, format: WeightFormat, block: usize, part: usize);
}

/// Rows as they lie in the file; those past the end repeat the last one.
#[derive(Clone, Copy)]
pub(crate) struct FileRows<'a> {
    rows: &'a [*const u8; 16],
    /// The row after them.
    next: *const u8,
    /// Bytes of one block of `ROWS` rows.
    span: usize,
}

impl<'a> FileRows<'a> {
    /// The rows from `first` of a matrix that lies as in its file.
    #[inline(always)]
    pub(crate) fn new<S: Simd>(weights: &WeightMatrix<'_>, rows: &'a [*const u8; 16], first: usize) -> Self {
        let next = rows[0].wrapping_add(S::ROWS.min(weights.rows() - first) * weights.row_bytes());
        Self { rows, next, span: S::ROWS * weights.format().block_bytes() }
    }
}

impl<S: Simd> Source<S> for FileRows<'_> {
    #[inline(always)]
    unsafe fn quads(self, format: WeightFormat, block: usize, offset: usize) -> [S::I; 4] {
        // SAFETY: the caller's promise.
        unsafe { S::load4(self.rows, block * format.block_bytes() + offset) }
    }

    #[inline(always)]
    unsafe fn word(self, format: WeightFormat, block: usize, offset: usize) -> S::I {
        // Loads are of sixteen bytes, which must not reach past the block: the row may end there.
        let back = (offset + 16).saturating_sub(format.block_bytes()).div_ceil(4);
        // SAFETY: the caller's promise, and the sixteen bytes lie inside the block.
        unsafe { S::load4(self.rows, block * format.block_bytes() + offset - 4 * back)[back] }
    }

    #[inline(always)]
    unsafe fn narrow_half(self, format: WeightFormat, block: usize) -> S::F {
        let offset = panel::narrow(format).offset;
        // SAFETY: as for `word`.
        unsafe {
            S::half_to_float(if offset == 0 {
                Source::<S>::word(self, format, block, 0)
            } else {
                // The block ends with it.
                S::shift_right::<16>(Source::<S>::word(self, format, block, offset - 2))
            })
        }
    }

    #[inline(always)]
    unsafe fn narrow_byte(self, format: WeightFormat, block: usize) -> S::I {
        // SAFETY: as for `word`.
        unsafe { S::and(Source::<S>::word(self, format, block, panel::narrow(format).offset), S::splat(255)) }
    }

    /// Sixteen rows are sixteen short streams, which hardware prefetchers follow badly; together the rows after them
    /// are one long run of bytes.
    #[inline(always)]
    unsafe fn fetch_ahead(self, format: WeightFormat, block: usize, part: usize) {
        let parts = format.block_size() / GROUP;
        let lines = self.span.div_ceil(64);
        for line in lines * part / parts..lines * (part + 1) / parts {
            prefetch(self.next.wrapping_add(block * self.span + 64 * line));
        }
    }
}

/// `ROWS` rows of a panel: both pointers are at the first of them.
#[derive(Clone, Copy)]
pub(crate) struct PanelRows {
    words: *const u8,
    narrow: *const u8,
    /// Those of the panel to be read after this one.
    next_narrow: *const u8,
    /// How far ahead lines are asked for into the second-level cache.
    far: usize,
}

impl PanelRows {
    /// Rows `first ..` of a panel with `blocks` blocks a row.
    ///
    /// # Safety
    /// `panel` points to a whole panel of this format, and `first` is a multiple of the set's rows below 16.
    #[inline(always)]
    pub(crate) unsafe fn new(format: WeightFormat, panel: *const u8, blocks: usize, first: usize) -> Self {
        let words = blocks * panel::words(format) * 4 * PANEL_ROWS;
        // SAFETY: the narrow fields follow the words inside the panel.
        let narrow = unsafe { panel.add(words + panel::narrow(format).bytes * first) };
        Self {
            // SAFETY: the first line of the panel holds a dword of each row.
            words: unsafe { panel.add(4 * first) },
            narrow,
            next_narrow: narrow.wrapping_add(panel::panel_bytes(blocks * format.block_bytes())),
            far: FAR_AHEAD,
        }
    }

    /// The same rows, read beside those of the panel before or after, so that the panel after the next is asked for.
    #[inline(always)]
    pub(crate) fn in_pairs(self, format: WeightFormat, blocks: usize) -> Self {
        let panel = panel::panel_bytes(blocks * format.block_bytes());
        Self { next_narrow: self.next_narrow.wrapping_add(panel), far: 2 * panel, ..self }
    }
}

impl<S: Simd> Source<S> for PanelRows {
    #[inline(always)]
    unsafe fn quads(self, format: WeightFormat, block: usize, offset: usize) -> [S::I; 4] {
        // Written out: a closure for each element would leave the vectors in memory.
        let plane = block * panel::words(format) + panel::word_at(format, offset);
        let line = 4 * PANEL_ROWS;
        // SAFETY: the caller's promise.
        unsafe {
            let from = self.words.add(plane * line);
            [S::load(from), S::load(from.add(line)), S::load(from.add(2 * line)), S::load(from.add(3 * line))]
        }
    }

    #[inline(always)]
    unsafe fn word(self, format: WeightFormat, block: usize, offset: usize) -> S::I {
        let plane = block * panel::words(format) + panel::word_at(format, offset);
        // SAFETY: the caller's promise.
        unsafe { S::load(self.words.add(plane * 4 * PANEL_ROWS)) }
    }

    #[inline(always)]
    unsafe fn narrow_half(self, _: WeightFormat, block: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_halves(self.narrow.add(block * 2 * PANEL_ROWS)) }
    }

    #[inline(always)]
    unsafe fn narrow_byte(self, _: WeightFormat, block: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::load_bytes(self.narrow.add(block * PANEL_ROWS)) }
    }

    #[inline(always)]
    unsafe fn fetch_ahead(self, format: WeightFormat, block: usize, part: usize) {
        let (words, parts) = (panel::words(format), format.block_size() / GROUP);
        for word in words * part / parts..words * (part + 1) / parts {
            // Past the end of the matrix this only asks in vain.
            let line = self.words.wrapping_add((block * words + word) * 4 * PANEL_ROWS);
            prefetch_far(line.wrapping_add(self.far));
            prefetch(line.wrapping_add(AHEAD));
        }
        // The narrow fields are a stream of their own, of which this panel's part was asked for by the one before.
        if part == 0 && panel::narrow(format).bytes > 0 {
            prefetch(self.next_narrow.wrapping_add(block * panel::narrow(format).bytes * PANEL_ROWS));
        }
    }
}

/// How far ahead of its use a line of a panel is asked for: into the second-level cache, then into the first. The first
/// alone has too few places for lines under way to keep the memory busy.
pub(crate) const FAR_AHEAD: usize = 8192;
pub(crate) const AHEAD: usize = 2048;
