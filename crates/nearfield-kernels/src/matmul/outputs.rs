//! Where finished chains go.

use super::Output;
use crate::format::WeightFormat;
use crate::simd::Simd;

/// Where the outputs of up to `ROWS` rows go.
pub(super) struct Outputs<'a> {
    pub(super) output: &'a Output<'a>,
    pub(super) scale: f32,
    pub(super) first_row: usize,
    pub(super) used: usize,
}

impl Outputs<'_> {
    /// Ends the chains of activation row `t`.
    ///
    /// # Safety
    /// The CPU has `S`, and the rows' outputs are the caller's to write.
    // Not a closure: those do not take over the instruction set of the function that they stand in.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(&self, t: usize, sum: S::F, minimum: S::F) {
        // SAFETY: the caller's promise; the lanes hold a vector.
        unsafe {
            let total = S::mul(S::add(sum, minimum), S::splat_float(self.scale));
            if self.used == S::ROWS {
                S::store_float(self.output.place(t, self.first_row), total);
                return;
            }
            let mut lanes = [0.0_f32; 16];
            S::store_float(lanes.as_mut_ptr(), total);
            for (lane, value) in lanes[..self.used].iter().enumerate() {
                self.output.write(t, self.first_row + lane, *value);
            }
        }
    }

    /// Ends the stored chains of `count` activation rows.
    ///
    /// # Safety
    /// As [`Outputs::finish`]; both slices have a vector for each activation row, `minimums` where the format has them.
    #[inline(always)]
    pub(super) unsafe fn finish_all<S: Simd>(
        &self,
        format: WeightFormat,
        count: usize,
        sums: &[f32],
        minimums: &[f32],
    ) {
        for t in 0..count {
            let at = t * S::ROWS;
            // SAFETY: the caller's promise.
            unsafe {
                let minimum = if format.has_minimum() {
                    S::load_float(minimums[at..].as_ptr())
                } else {
                    S::splat_float(0.0)
                };
                self.finish::<S>(t, S::load_float(sums[at..].as_ptr()), minimum);
            }
        }
    }
}
