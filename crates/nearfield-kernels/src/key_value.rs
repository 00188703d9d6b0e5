//! The layout of cached keys and values: pages of 32 positions.

use crate::fp8::{e4m3_to_f32, f32_to_e4m3};
use crate::set::KernelSet;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Positions in a page, which is also the block of keys that attention takes at once.
pub const PAGE_POSITIONS: usize = 32;

/// The element type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyValueType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
    /// int8 with one `f32` scale for each position and head: amax / 127, nearest, ties to even.
    Q8,
    /// FP8 E4M3 with one scale for all keys of a layer and one for all its values, as a checkpoint gives them, else 1:
    /// the quotient, nearest, ties to even; what is too large becomes the largest, 448.
    F8,
}

impl KeyValueType {
    /// The name that flags and receipts use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::F8 => "fp8",
        }
    }

    const fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8 | Self::F8 => 1,
        }
    }
}

/// How one layer's pages are laid out: all heads' keys, then all heads' values. In each head keys lie transposed,
/// `[head_size][32]`, so that a block's scores come out with keys in lanes; values lie `[32][head_size]`. With
/// [`KeyValueType::Q8`] each is followed by its 32 scales.
#[derive(Clone, Copy, Debug)]
pub struct KeyValueLayout {
    kind: KeyValueType,
    heads: usize,
    head_size: usize,
    /// What codes of [`KeyValueType::F8`] are multiplied by: keys', values'.
    scales: [f32; 2],
}

impl KeyValueLayout {
    /// A layout for `heads` key-value heads of `head_size`.
    pub const fn new(kind: KeyValueType, heads: usize, head_size: usize) -> Self {
        Self { kind, heads, head_size, scales: [1.0; 2] }
    }

    /// The same with a checkpoint's scales of keys and values, which must be positive and finite; only
    /// [`KeyValueType::F8`] heeds them.
    pub const fn with_scales(self, scales: [f32; 2]) -> Self {
        Self { scales, ..self }
    }

    /// Key-value heads.
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// Components of a head.
    pub const fn head_size(&self) -> usize {
        self.head_size
    }

    const fn head_bytes(&self) -> usize {
        let scales = if matches!(self.kind, KeyValueType::Q8) { 4 * PAGE_POSITIONS } else { 0 };
        self.head_size * PAGE_POSITIONS * self.kind.element_bytes() + scales
    }

    /// Bytes of one page. Pages start at multiples of 4 bytes.
    pub const fn page_bytes(&self) -> usize {
        2 * self.heads * self.head_bytes()
    }

    /// Stores the key and value of one position (`slot` in the page) and head, rounded to the cache's type.
    ///
    /// # Panics
    /// If `page`, `key` or `value` has the wrong length or `slot` is outside the page.
    pub fn write(&self, page: &mut [u8], slot: usize, head: usize, key: &[f32], value: &[f32]) {
        assert!(slot < PAGE_POSITIONS && head < self.heads, "no such place in a page");
        assert!(
            key.len() == self.head_size && value.len() == self.head_size,
            "a head has `head_size` elements"
        );
        let (keys, values) = page[..self.page_bytes()].split_at_mut(self.heads * self.head_bytes());
        let keys = &mut keys[head * self.head_bytes()..][..self.head_bytes()];
        let values = &mut values[head * self.head_bytes()..][..self.head_bytes()];
        let step = PAGE_POSITIONS;
        match self.kind {
            KeyValueType::F32 => {
                store(keys, slot, step, key, f32::to_le_bytes);
                store(values, slot * self.head_size, 1, value, f32::to_le_bytes);
            }
            KeyValueType::F16 => {
                let bytes = |x: f32| f16::from_f32_const(x).to_le_bytes();
                store(keys, slot, step, key, bytes);
                store(values, slot * self.head_size, 1, value, bytes);
            }
            KeyValueType::Bf16 => {
                let bytes = |x: f32| bf16::from_f32(x).to_le_bytes();
                store(keys, slot, step, key, bytes);
                store(values, slot * self.head_size, 1, value, bytes);
            }
            KeyValueType::Q8 => {
                self.write_q8(keys, slot, slot, step, key);
                self.write_q8(values, slot, slot * self.head_size, 1, value);
            }
            KeyValueType::F8 => {
                store(keys, slot, step, key, |x| [fp8_code(x, self.scales[0])]);
                store(values, slot * self.head_size, 1, value, |x| [fp8_code(x, self.scales[1])]);
            }
        }
    }

    fn write_q8(&self, bytes: &mut [u8], slot: usize, first: usize, step: usize, x: &[f32]) {
        let largest = x.iter().fold(0_u32, |largest, x| largest.max(x.to_bits() & 0x7FFF_FFFF));
        let (scale, inverse) = match largest {
            0x7F80_0000.. => (f32::NAN, 0.0),
            0..0x0380_0000 => (0.0, 0.0),
            bits => (f32::from_bits(bits) / 127.0, 127.0 / f32::from_bits(bits)),
        };
        store(bytes, first, step, x, |x| [(x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8]);
        let at = self.head_size * PAGE_POSITIONS + 4 * slot;
        bytes[at..at + 4].copy_from_slice(&scale.to_le_bytes());
    }

    /// The element type.
    pub(crate) const fn kind(&self) -> KeyValueType {
        self.kind
    }

    /// The keys and the values of one head of a page, as stored.
    pub(crate) fn head_of<'a>(&self, page: &'a [u8], head: usize) -> (&'a [u8], &'a [u8]) {
        let (keys, values) = page[..self.page_bytes()].split_at(self.heads * self.head_bytes());
        let range = head * self.head_bytes()..(head + 1) * self.head_bytes();
        (&keys[range.clone()], &values[range])
    }

    /// Reads one head of a page as `f32`: `keys` is `[head_size][32]`, `values` is `[32][head_size]`. Places that were
    /// never written hold anything.
    ///
    /// # Panics
    /// If a buffer has the wrong length.
    pub(crate) fn read(
        &self,
        set: KernelSet,
        page: &[u8],
        head: usize,
        keys: &mut [f32],
        values: &mut [f32],
    ) {
        let (key_bytes, value_bytes) = self.head_of(page, head);
        self.read_one(set, key_bytes, keys);
        self.read_one(set, value_bytes, values);
        if self.kind == KeyValueType::F8 {
            for (values, scale) in [(&mut *keys, self.scales[0]), (&mut *values, self.scales[1])] {
                for value in values.iter_mut().filter(|_| scale != 1.0) {
                    *value *= scale;
                }
            }
        }
        if self.kind == KeyValueType::Q8 {
            let scales = |bytes: &[u8]| -> [f32; PAGE_POSITIONS] {
                let bytes = &bytes[self.head_size * PAGE_POSITIONS..];
                std::array::from_fn(|i| {
                    f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
                })
            };
            let key_scales = scales(key_bytes);
            for row in keys.as_chunks_mut::<PAGE_POSITIONS>().0 {
                for (key, scale) in row.iter_mut().zip(key_scales) {
                    *key *= scale;
                }
            }
            for (row, scale) in values.chunks_exact_mut(self.head_size).zip(scales(value_bytes)) {
                for value in row {
                    *value *= scale;
                }
            }
        }
    }

    fn read_one(&self, set: KernelSet, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(out.len(), self.head_size * PAGE_POSITIONS, "one head of one page");
        match self.kind {
            KeyValueType::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            KeyValueType::F16 => read_halves(set, bytes, out),
            KeyValueType::Bf16 => {
                for (out, value) in out.iter_mut().zip(aligned::<bf16>(bytes)) {
                    *out = value.to_f32();
                }
            }
            KeyValueType::Q8 => {
                for (out, byte) in out.iter_mut().zip(bytes) {
                    *out = f32::from(*byte as i8);
                }
            }
            KeyValueType::F8 => {
                for (out, code) in out.iter_mut().zip(bytes) {
                    *out = E4M3[usize::from(*code)];
                }
            }
        }
    }
}

/// The value of every code.
static E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = e4m3_to_f32(code as u8);
        code += 1;
    }
    values
};

/// The code whose value, times the scale, is nearest. A number that is not finite has the code of NaN.
fn fp8_code(x: f32, scale: f32) -> u8 {
    if x.is_finite() { f32_to_e4m3(x / scale) } else { 0x7F }
}

/// `out` becomes the f16 of `bytes`.
fn read_halves(set: KernelSet, bytes: &[u8], out: &mut [f32]) {
    match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a set other than `Scalar` comes from `KernelSet::available`, which has checked the features.
        KernelSet::Avx2 | KernelSet::AvxVnni | KernelSet::Avx512 => unsafe { read_halves_f16c(bytes, out) },
        _ => aligned::<f16>(bytes).convert_to_f32_slice(out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn read_halves_f16c(bytes: &[u8], out: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (from, to) = (bytes.as_chunks::<16>().0, out.as_chunks_mut::<8>());
    for (from, to) in from.iter().zip(to.0.iter_mut()) {
        // SAFETY: both arrays have the vectors' sizes.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
    }
    // A head times a page's positions is a multiple of eight.
    debug_assert!(to.1.is_empty());
}

/// Bytes as two-byte numbers. Every bit pattern is one, and pages are 4-byte aligned.
fn aligned<T>(bytes: &[u8]) -> &[T] {
    debug_assert!(size_of::<T>() == 2, "half-width numbers");
    // SAFETY: called with f16 and bf16, for which every bit pattern is a value.
    let (before, numbers, after) = unsafe { bytes.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty(), "pages are aligned");
    numbers
}

#[inline(always)]
fn store<const N: usize>(
    bytes: &mut [u8],
    first: usize,
    step: usize,
    x: &[f32],
    encode: impl Fn(f32) -> [u8; N],
) {
    for (place, x) in bytes.as_chunks_mut::<N>().0[first..].iter_mut().step_by(step).zip(x) {
        *place = encode(*x);
    }
}
