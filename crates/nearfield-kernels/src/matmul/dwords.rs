//! Where the dwords of floating formats are read from: rows as they lie in a file, or a panel of sixteen rows.

use super::weights::{RowPlace, WeightMatrix, row_pointers};
use super::{prefetch, prefetch_far};
use crate::panel::PANEL_ROWS;
use crate::simd::Simd;
use crate::tile::{AHEAD, FAR_AHEAD};

/// Reads dwords of `ROWS` rows, rows in lanes.
///
/// # Safety
/// Of every method: the CPU has `S`, and the rows have these bytes.
pub(super) trait Dwords<S: Simd>: Copy {
    /// Four dwords from number `first` on.
    unsafe fn four(&self, first: usize) -> [S::I; 4];
    /// The first `bytes` bytes, up to four, of dword `number`, the others zero or as they come.
    unsafe fn one(&self, number: usize, bytes: usize) -> S::I;
}

/// Rows as they lie in the file; those past the end repeat the last one.
#[derive(Clone, Copy)]
pub(super) struct FileDwords {
    pub(super) pointers: [*const u8; 16],
}

impl FileDwords {
    #[inline(always)]
    pub(super) fn new(weights: &WeightMatrix<'_>, first: usize) -> Self {
        Self { pointers: row_pointers(weights, first) }
    }
}

impl<S: Simd> Dwords<S> for FileDwords {
    #[inline(always)]
    unsafe fn four(&self, first: usize) -> [S::I; 4] {
        // SAFETY: the caller's promise.
        unsafe { S::load4(&self.pointers, 4 * first) }
    }

    #[inline(always)]
    unsafe fn one(&self, number: usize, bytes: usize) -> S::I {
        let mut lanes = [[0_u8; 4]; 16];
        for (lane, row) in lanes.iter_mut().zip(&self.pointers) {
            for (at, byte) in lane.iter_mut().enumerate().take(bytes) {
                // SAFETY: the caller's promise.
                *byte = unsafe { row.add(4 * number + at).read() };
            }
        }
        // SAFETY: there are sixteen lanes.
        unsafe { S::load(lanes.as_ptr().cast()) }
    }
}

/// `ROWS` rows of a panel, from the first of them.
#[derive(Clone, Copy)]
pub(super) struct PanelDwords {
    lines: *const u8,
}

impl PanelDwords {
    /// Row `row` of a panel and those after it, where the place is one.
    #[inline(always)]
    pub(super) fn new(place: RowPlace<'_>) -> Option<Self> {
        match place {
            // Rows below sixteen lie in the first line.
            RowPlace::Panel { bytes, row } => Some(Self { lines: bytes.as_ptr().wrapping_add(4 * row) }),
            RowPlace::File(_) | RowPlace::Apart => None,
        }
    }
}

impl<S: Simd> Dwords<S> for PanelDwords {
    #[inline(always)]
    unsafe fn four(&self, first: usize) -> [S::I; 4] {
        let line = 4 * PANEL_ROWS;
        let from = self.lines.wrapping_add(first * line);
        for number in 0..4 {
            // Past the end of the matrix this only asks in vain.
            prefetch_far(from.wrapping_add(number * line + FAR_AHEAD));
            prefetch(from.wrapping_add(number * line + AHEAD));
        }
        // Written out: a closure for each element would leave the vectors in memory.
        // SAFETY: the caller's promise.
        unsafe {
            [S::load(from), S::load(from.add(line)), S::load(from.add(2 * line)), S::load(from.add(3 * line))]
        }
    }

    #[inline(always)]
    unsafe fn one(&self, number: usize, _: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::load(self.lines.add(number * 4 * PANEL_ROWS)) }
    }
}
