//! Panels: sixteen rows of a weight matrix with their bytes interleaved, so that one vector load feeds sixteen rows.
//!
//! A panel is a permutation of the bytes of its rows, nothing else: it is exactly as large (give or take padding to a
//! cache line), any row can be had back, and both forms unpack to the same numbers. A format's block is cut into dwords
//! and at most one *narrow* field of one or two bytes, its scale, that does not fill a dword; a floating format's block is
//! one dword here:
//!
//! ```text
//! dword 0 of block 0 of rows 0 .. 15   64 bytes
//! dword 1 of block 0 of rows 0 .. 15   64 bytes
//! ..                                   all dwords of all blocks
//! narrow field of block 0, rows 0 .. 15    16 or 32 bytes
//! ..                                       of all blocks
//! ```
//!
//! Sets with fewer lanes read a half or a quarter of each line, so one layout serves them all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::format::WeightFormat;
use crate::matmul::WeightMatrix;
use crate::memory::LargeMemory;
use crate::pool::ThreadPool;

/// Rows in a panel.
pub const PANEL_ROWS: usize = 16;

/// Panels begin at multiples of this.
const LINE: usize = 64;

/// The field of a block that is not made of dwords.
#[derive(Clone, Copy)]
pub(crate) struct Narrow {
    /// Its place in the file's block.
    pub(crate) offset: usize,
    /// 0 where the format has none.
    pub(crate) bytes: usize,
}

/// Bytes that a panel takes apart: the format's block, and a dword of a floating format.
#[inline(always)]
pub(crate) const fn unit_bytes(format: WeightFormat) -> usize {
    if format.is_float() { 4 } else { format.block_bytes() }
}

/// The narrow field of a format.
#[inline(always)]
pub(crate) const fn narrow(format: WeightFormat) -> Narrow {
    match format {
        WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 | WeightFormat::Iq4Nl => {
            Narrow { offset: 0, bytes: 2 }
        }
        WeightFormat::Mxfp4 => Narrow { offset: 0, bytes: 1 },
        WeightFormat::Q3K | WeightFormat::Q6K => Narrow { offset: format.block_bytes() - 2, bytes: 2 },
        _ => Narrow { offset: 0, bytes: 0 },
    }
}

/// Dwords in a block, or in a dword.
#[inline(always)]
pub(crate) const fn words(format: WeightFormat) -> usize {
    (unit_bytes(format) - narrow(format).bytes) / 4
}

/// Which dword of the block begins at this offset of the file's block.
#[inline(always)]
pub(crate) const fn word_at(format: WeightFormat, offset: usize) -> usize {
    let narrow = narrow(format);
    let before = if narrow.bytes > 0 && narrow.offset < offset { narrow.bytes } else { 0 };
    (offset - before) / 4
}

/// The place in the file's block of dword `word`.
const fn offset_of(format: WeightFormat, word: usize) -> usize {
    let narrow = narrow(format);
    let before = if narrow.offset == 0 { narrow.bytes } else { 0 };
    before + 4 * word
}

/// Whether rows of so many bytes can lie in panels: those of floating formats must be whole dwords.
pub(crate) const fn has_panels(format: WeightFormat, row_bytes: usize) -> bool {
    row_bytes.is_multiple_of(unit_bytes(format))
}

/// Bytes of one panel whose rows have `row_bytes` bytes, padding included.
pub(crate) const fn panel_bytes(row_bytes: usize) -> usize {
    (PANEL_ROWS * row_bytes).next_multiple_of(LINE)
}

/// Bytes of a matrix in panels: whole panels, then the rows that do not fill one, as in the file.
pub(crate) const fn packed_bytes(rows: usize, row_bytes: usize) -> usize {
    rows / PANEL_ROWS * panel_bytes(row_bytes) + rows % PANEL_ROWS * row_bytes
}

/// Writes one panel of the rows in `rows` (sixteen, one after the other).
///
/// # Panics
/// If `rows` is not sixteen rows of whole blocks or `panel` is not [`panel_bytes`] long.
pub(crate) fn pack_panel(format: WeightFormat, rows: &[u8], panel: &mut [u8]) {
    let row_bytes = rows.len() / PANEL_ROWS;
    let (block_bytes, words, narrow) = (unit_bytes(format), words(format), narrow(format));
    let blocks = row_bytes / block_bytes;
    assert!(rows.len() == PANEL_ROWS * blocks * block_bytes && panel.len() == panel_bytes(row_bytes));
    let (lines, rest) = panel.split_at_mut(blocks * words * 4 * PANEL_ROWS);
    for (block, lines) in lines.chunks_exact_mut(words * 4 * PANEL_ROWS).enumerate() {
        for (word, line) in lines.as_chunks_mut::<{ 4 * PANEL_ROWS }>().0.iter_mut().enumerate() {
            let at = block * block_bytes + offset_of(format, word);
            for (row, dword) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                dword.copy_from_slice(&rows[row * row_bytes + at..][..4]);
            }
        }
    }
    if narrow.bytes == 0 {
        return;
    }
    for (block, fields) in rest.chunks_exact_mut(narrow.bytes * PANEL_ROWS).take(blocks).enumerate() {
        let at = block * block_bytes + narrow.offset;
        for (row, field) in fields.chunks_exact_mut(narrow.bytes).enumerate() {
            field.copy_from_slice(&rows[row * row_bytes + at..][..narrow.bytes]);
        }
    }
}

/// Writes row `row` of a panel as it lies in the file.
///
/// # Panics
/// If `panel` is not [`panel_bytes`] of `out`'s length or `row` is no row of a panel.
pub(crate) fn unpack_row(format: WeightFormat, panel: &[u8], row: usize, out: &mut [u8]) {
    let (block_bytes, words, narrow) = (unit_bytes(format), words(format), narrow(format));
    let blocks = out.len() / block_bytes;
    assert!(row < PANEL_ROWS && panel.len() == panel_bytes(out.len()));
    let fields = &panel[blocks * words * 4 * PANEL_ROWS..];
    for (block, out) in out.chunks_exact_mut(block_bytes).enumerate() {
        for word in 0..words {
            let from = ((block * words + word) * PANEL_ROWS + row) * 4;
            out[offset_of(format, word)..][..4].copy_from_slice(&panel[from..][..4]);
        }
        let from = (block * PANEL_ROWS + row) * narrow.bytes;
        out[narrow.offset..][..narrow.bytes].copy_from_slice(&fields[from..][..narrow.bytes]);
    }
}

/// Panels of one matrix to be written by one thread at a time.
struct Unit<'o> {
    matrix: usize,
    first: usize,
    out: &'o mut [u8],
}

/// Bytes that are packed before `between` is called.
const ROUND_BYTES: usize = 16 << 20;

/// Bytes of a unit, about: what a core's own cache holds.
const UNIT_BYTES: usize = 256 << 10;

/// Moves matrices into panels, with all threads of `pool`. Those that stay as they are in the file are left alone, and
/// matrices over the same bytes share their panels.
///
/// `between` is called after every 16 MiB or so: whoever mapped the file can let go of its pages there.
///
/// Returns the bytes taken.
///
/// # Errors
/// When the system has not the memory; nothing has changed then.
pub fn pack(
    matrices: &mut [&mut WeightMatrix<'_>],
    pool: &mut ThreadPool,
    between: &mut dyn FnMut(),
) -> std::io::Result<usize> {
    let mut starts = Vec::with_capacity(matrices.len());
    let mut known = HashMap::new();
    let mut total = 0;
    for matrix in matrices.iter() {
        let (Some(bytes), Some(place)) = (matrix.packed_bytes(), matrix.file_place()) else {
            starts.push(None);
            continue;
        };
        let mut first = false;
        let start = *known.entry(place).or_insert_with(|| {
            first = true;
            let start = total;
            total += bytes.next_multiple_of(LINE);
            start
        });
        starts.push(Some((start, first)));
    }
    let mut memory = LargeMemory::new(total, 0)?;
    let mut units = Vec::new();
    let mut rest = memory.bytes_mut();
    for (index, matrix) in
        matrices.iter().enumerate().filter(|(index, _)| matches!(starts[*index], Some((_, true))))
    {
        let bytes = matrix.packed_bytes().unwrap_or(0);
        let (own, after) = rest.split_at_mut(bytes.next_multiple_of(LINE).min(rest.len()));
        let panel = panel_bytes(matrix.row_bytes());
        let run = (UNIT_BYTES / panel).max(1);
        for (i, out) in own[..bytes].chunks_mut(run * panel).enumerate() {
            units.push(Mutex::new(Unit { matrix: index, first: i * run, out }));
        }
        rest = after;
    }
    for round in units.chunks(ROUND_BYTES / UNIT_BYTES) {
        let next = AtomicUsize::new(0);
        pool.run(&|_| {
            let mut rows = Vec::new();
            while let Some(unit) = round.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut unit = unit.lock().unwrap_or_else(PoisonError::into_inner);
                let Unit { matrix, first, out } = &mut *unit;
                let matrix = &matrices[*matrix];
                for (i, out) in out.chunks_mut(panel_bytes(matrix.row_bytes())).enumerate() {
                    matrix.pack(*first + i, out, &mut rows);
                }
            }
        });
        between();
    }
    let memory = Arc::new(memory);
    for (matrix, start) in matrices.iter_mut().zip(starts) {
        if let Some((start, _)) = start {
            matrix.use_panels(Arc::clone(&memory), start);
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_a_permutation_of_its_rows() {
        for format in WeightFormat::ALL {
            for blocks in [1, 2, 5] {
                let row_bytes = blocks * unit_bytes(format);
                let rows: Vec<u8> = (0..PANEL_ROWS * row_bytes).map(|i| (i * 131 + i / 251) as u8).collect();
                let mut panel = vec![0; panel_bytes(row_bytes)];
                pack_panel(format, &rows, &mut panel);
                for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                    let mut out = vec![0; row_bytes];
                    unpack_row(format, &panel, row, &mut out);
                    assert_eq!(out, bytes, "{} row {row}", format.name());
                }
            }
        }
    }

    #[test]
    fn panels_are_hardly_larger_than_the_file() {
        for format in WeightFormat::ALL {
            for (rows, columns) in [(256, 256), (257, 768), (2048, 1536)] {
                let row_bytes = format.row_bytes(columns).unwrap();
                let (packed, file) = (packed_bytes(rows, row_bytes), rows * row_bytes);
                assert!(
                    packed >= file && packed * 100 <= file * 103,
                    "{}: {packed} of {file}",
                    format.name()
                );
            }
        }
    }
}
