//! Fetching ahead.

use super::WeightMatrix;

/// Asks for the bytes of the next rows while the present ones are computed.
///
/// Sixteen rows at a time are sixteen short streams, which hardware prefetchers follow badly; together the rows are one
/// long run of bytes.
pub(super) struct Ahead<'a> {
    bytes: std::slice::Chunks<'a, u8>,
}

impl<'a> Ahead<'a> {
    /// Spreads rows `first .. first + rows` over `steps` steps.
    #[inline(always)]
    pub(super) fn new(weights: &WeightMatrix<'a>, first: usize, rows: usize, steps: usize) -> Self {
        let bytes = weights.file_bytes().unwrap_or_default();
        let row_bytes = bytes.len() / weights.rows().max(1);
        let start = first.min(weights.rows()) * row_bytes;
        let end = (first + rows).min(weights.rows()) * row_bytes;
        let bytes = &bytes[start..end];
        Self { bytes: bytes.chunks(bytes.len().div_ceil(steps).max(1)) }
    }

    #[inline(always)]
    pub(super) fn step(&mut self) {
        for line in self.bytes.next().unwrap_or_default().chunks(64) {
            prefetch(line.as_ptr());
        }
    }
}

macro_rules! prefetch {
    ($(#[$meta:meta])* $name:ident, $hint:ident) => {
        $(#[$meta])*
        #[inline(always)]
        pub(crate) fn $name(line: *const u8) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch has no effect but on the cache, and SSE is part of x86-64.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::$hint }>(line.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        }
    };
}
prefetch! {
    /// Asks for a cache line. A hint: it never faults.
    prefetch, _MM_HINT_T0
}
prefetch! {
    /// Asks for a cache line in the second-level cache.
    prefetch_far, _MM_HINT_T1
}
