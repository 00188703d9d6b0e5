//! Activations as int8 in groups of 32, the form in which integer and FP4 weights meet them.

use std::sync::{Mutex, PoisonError};

use crate::pool::ThreadPool;
use crate::set::{KernelSet, multiversion};

/// Elements that share one scale.
pub const GROUP: usize = 32;

/// Rows of activations, quantized: `value[k] ~ scale[k / 32] * code[k]`.
///
/// Each row is padded with zeros to whole groups. Buffers are reused: `quantize` only grows them.
#[derive(Clone, Debug, Default)]
pub struct QuantizedRows {
    rows: usize,
    groups: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    /// Sums of the codes of each half group, for the minimums and for kernels with unsigned codes.
    sums: Vec<[i32; 2]>,
}

/// One row of [`QuantizedRows`].
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRow<'a> {
    /// `32 * groups` codes in -127..=127.
    pub codes: &'a [i8],
    /// One scale a group.
    pub scales: &'a [f32],
    /// Sums of the codes of both halves of each group.
    pub sums: &'a [[i32; 2]],
}

/// One thread's rows.
struct Part<'a> {
    values: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [[i32; 2]],
}

impl QuantizedRows {
    /// Quantizes `values`, `rows` rows of `columns` each, row-major, with the threads of `pool`.
    ///
    /// A group's scale is amax / 127 and its codes are x * (127 / amax), rounded to nearest, ties to even. A group
    /// whose amax is 0 or so small (below 2^-120) that 127 / amax overflows has scale and codes 0; a group with a
    /// value that is not finite has scale NaN, so that it cannot pass unnoticed.
    ///
    /// # Panics
    /// If `values` is not `rows * columns` long.
    pub fn quantize(
        &mut self,
        set: KernelSet,
        pool: &mut ThreadPool,
        values: &[f32],
        rows: usize,
        columns: usize,
    ) {
        assert_eq!(values.len(), rows * columns, "activations must be whole rows");
        let groups = columns.div_ceil(GROUP);
        self.rows = rows;
        self.groups = groups;
        self.codes.resize(rows * groups * GROUP, 0);
        self.scales.resize(rows * groups, 0.0);
        self.sums.resize(rows * groups, [0; 2]);
        let share = if rows < 4 { rows.max(1) } else { rows.div_ceil(pool.threads()) };
        let parts: Vec<_> = values
            .chunks((share * columns).max(1))
            .zip(self.codes.chunks_mut((share * groups * GROUP).max(1)))
            .zip(self.scales.chunks_mut((share * groups).max(1)))
            .zip(self.sums.chunks_mut((share * groups).max(1)))
            .map(|(((values, codes), scales), sums)| Mutex::new(Part { values, codes, scales, sums }))
            .collect();
        let quantize_part = |part: &Mutex<Part<'_>>| {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let Part { values, codes, scales, sums } = &mut *part;
            for (r, row) in values.chunks_exact(columns.max(1)).enumerate() {
                quantize_row(
                    set,
                    row,
                    &mut codes[r * groups * GROUP..][..groups * GROUP],
                    &mut scales[r * groups..][..groups],
                    &mut sums[r * groups..][..groups],
                );
            }
        };
        match parts.as_slice() {
            [part] => quantize_part(part),
            parts => pool.run(&|worker| parts.get(worker).map_or((), quantize_part)),
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Groups in each row.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Sums of the codes of both halves of every group, rows one after the other.
    pub(crate) fn code_sums(&self) -> &[[i32; 2]] {
        &self.sums
    }

    /// The codes of a group, counted through all rows.
    ///
    /// # Safety
    /// There is such a group.
    #[inline(always)]
    pub(crate) unsafe fn group_codes(&self, index: usize) -> &[i8; GROUP] {
        // SAFETY: the caller's promise; an array of bytes has no alignment.
        unsafe { &*self.codes.as_ptr().add(index * GROUP).cast::<[i8; GROUP]>() }
    }

    /// The scale of a group, counted through all rows.
    ///
    /// # Safety
    /// There is such a group.
    #[inline(always)]
    pub(crate) unsafe fn group_scale(&self, index: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *self.scales.get_unchecked(index) }
    }

    /// Row `index`.
    #[inline]
    pub fn row(&self, index: usize) -> QuantizedRow<'_> {
        QuantizedRow {
            codes: &self.codes[index * self.groups * GROUP..][..self.groups * GROUP],
            scales: &self.scales[index * self.groups..][..self.groups],
            sums: &self.sums[index * self.groups..][..self.groups],
        }
    }
}

multiversion! {
    fn quantize_row / quantize_row_avx2 / quantize_row_avx512(
        row: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]],
    ) = quantize_row_body;
}

#[inline(always)]
fn quantize_row_body(row: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    let (whole, rest) = row.as_chunks::<GROUP>();
    let (code_groups, _) = codes.as_chunks_mut::<GROUP>();
    for (((group, codes), scale), sums) in
        whole.iter().zip(code_groups.iter_mut()).zip(&mut *scales).zip(&mut *sums)
    {
        quantize_group(group, codes, scale, sums);
    }
    if !rest.is_empty() {
        let mut group = [0.0; GROUP];
        group[..rest.len()].copy_from_slice(rest);
        let g = whole.len();
        quantize_group(&group, &mut code_groups[g], &mut scales[g], &mut sums[g]);
    }
}

#[inline(always)]
fn quantize_group(group: &[f32; GROUP], codes: &mut [i8; GROUP], scale: &mut f32, sums: &mut [i32; 2]) {
    // Magnitudes compare as integers, and every NaN or infinity is at least the bits of infinity.
    let mut largest = 0_u32;
    for value in group {
        largest = largest.max(value.to_bits() & 0x7FFF_FFFF);
    }
    if !(0x0380_0000..0x7F80_0000).contains(&largest) {
        *scale = if largest < 0x7F80_0000 { 0.0 } else { f32::NAN };
        *codes = [0; GROUP];
        *sums = [0; 2];
        return;
    }
    let amax = f32::from_bits(largest);
    *scale = amax / 127.0;
    let inverse = 127.0 / amax;
    let mut integers = [0_i32; GROUP];
    for (integer, value) in integers.iter_mut().zip(group) {
        // SAFETY: the product is finite and at most 127 in magnitude, give or take a rounding.
        *integer = unsafe { (value * inverse).round_ties_even().to_int_unchecked::<i32>() }.clamp(-127, 127);
    }
    let (mut low, mut high) = (0, 0);
    for i in 0..16 {
        low += integers[i];
        high += integers[16 + i];
    }
    *sums = [low, high];
    for (code, integer) in codes.iter_mut().zip(integers) {
        *code = integer as i8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(values: &[f32], rows: usize) -> QuantizedRows {
        let mut quantized = QuantizedRows::default();
        let mut pool = ThreadPool::new(1).unwrap();
        quantized.quantize(KernelSet::Scalar, &mut pool, values, rows, values.len() / rows);
        quantized
    }

    #[test]
    fn codes_are_nearest_and_ties_go_to_even() {
        let mut values = [0.0_f32; 40];
        values[0] = 127.0;
        values[1] = -2.5;
        values[2] = 3.5;
        values[3] = -0.5;
        values[20] = 126.6;
        values[33] = -4.0;
        let quantized = quantize(&values, 1);
        let row = quantized.row(0);
        assert_eq!(&row.codes[..4], &[127, -2, 4, 0]);
        assert_eq!(row.codes[20], 127);
        assert_eq!(row.sums[0], [129, 127]);
        assert_eq!(row.scales[0], 1.0);
        assert_eq!(row.codes[33], -127, "the short last group is padded with zeros");
        assert_eq!(row.scales[1], 4.0 / 127.0);
        assert_eq!(row.groups_are_padded(), 64);
    }

    #[test]
    fn nothing_hides_a_value_that_is_not_finite() {
        let mut values = [1.0_f32; 64];
        values[5] = f32::NAN;
        values[40] = f32::NEG_INFINITY;
        let quantized = quantize(&values, 1);
        assert!(quantized.row(0).scales.iter().all(|scale| scale.is_nan()));
        let tiny = [1e-38_f32; 32];
        assert_eq!(quantize(&tiny, 1).row(0).scales, &[0.0]);
    }

    #[test]
    fn every_set_gives_the_same_codes() {
        let mut state = 7_u32;
        let values: Vec<f32> = (0..3 * 112)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits((state >> 9) | 0x3F80_0000) * if state & 1 == 0 { 1.0 } else { -3.0 } - 0.4
            })
            .collect();
        let values: Vec<f32> = values.iter().copied().cycle().take(9 * 112).collect();
        let wanted = quantize(&values, 9);
        let mut pool = ThreadPool::new(2).unwrap();
        for set in KernelSet::available() {
            let mut quantized = QuantizedRows::default();
            quantized.quantize(set, &mut pool, &values, 9, 112);
            assert_eq!(quantized.codes, wanted.codes, "{}", set.name());
            assert_eq!(quantized.scales, wanted.scales);
            assert_eq!(quantized.sums, wanted.sums);
        }
    }

    impl QuantizedRow<'_> {
        fn groups_are_padded(&self) -> usize {
            self.codes.len()
        }
    }
}
