//! The weight formats that Nearfield reads: their block shapes and how a row becomes `f32`.
//!
//! Layouts are those of GGUF: a row is a run of whole blocks, `k` ascending. `dequantize_row` is the definition of
//! what a stored weight is worth; the integer kernels use the same parts without ever forming the product.

use half::{bf16, f16};

/// How the elements of a weight matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// One byte: 4 exponent and 3 mantissa bits, no infinities. Scales lie outside ([`crate::Fp8Scales`]).
    F8E4M3,
    /// 32 unsigned nibbles, offset 8, one f16 scale.
    Q4_0,
    /// 32 unsigned nibbles, one f16 scale and one f16 minimum.
    Q4_1,
    /// 32 five-bit codes, offset 16, one f16 scale.
    Q5_0,
    /// 32 five-bit codes, one f16 scale and one f16 minimum.
    Q5_1,
    /// 32 signed bytes, one f16 scale.
    Q8_0,
    /// 256 two-bit codes, 4-bit scale and minimum per 16.
    Q2K,
    /// 256 three-bit codes, 6-bit scale per 16.
    Q3K,
    /// 256 nibbles, 6-bit scale and minimum per 32.
    Q4K,
    /// 256 five-bit codes, 6-bit scale and minimum per 32.
    Q5K,
    /// 256 six-bit codes, 8-bit scale per 16.
    Q6K,
    /// 32 nibbles into a table of 16 values, one f16 scale.
    Iq4Nl,
    /// 32 E2M1 codes, one E8M0 scale.
    Mxfp4,
    /// 64 E2M1 codes, one unsigned E4M3 scale per 16.
    Nvfp4,
}

/// Twice the value of each E2M1 code.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// The sixteen values of IQ4_NL.
pub(crate) const IQ4NL_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl WeightFormat {
    /// Every format, for tests and tables.
    pub const ALL: [Self; 17] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F8E4M3,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Mxfp4,
        Self::Nvfp4,
    ];

    /// Elements in one block.
    pub const fn block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl | Self::Mxfp4 => 32,
            Self::Nvfp4 => 64,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4M3 => 1,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Mxfp4 => 17,
            Self::Nvfp4 => 36,
        }
    }

    /// Bytes of a row of `columns` elements; `None` when they are not a whole number of blocks or overflow.
    pub const fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_size()) {
            return None;
        }
        (columns / self.block_size()).checked_mul(self.block_bytes())
    }

    /// The name that files and people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Mxfp4 => "MXFP4",
            Self::Nvfp4 => "NVFP4",
        }
    }

    /// Whether default arithmetic meets this format with `f32` activations instead of int8 ones.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3)
    }
}

/// A little-endian f16 at `bytes[at..at + 2]`.
#[inline(always)]
pub(crate) fn read_f16(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Exact conversion of an f16's bits.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32_const()
}

/// Rounds to the nearest f16, ties to even.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    f16::from_f32_const(value).to_bits()
}

/// Exact conversion of a bf16's bits.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to the nearest bf16, ties to even.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    bf16::from_f32(value).to_bits()
}

/// An unsigned E4M3 scale (the sign bit is ignored); 0x7F is NaN.
pub(crate) const fn ue4m3(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as f32);
    if code & 0x7F == 0x7F {
        f32::NAN
    } else if exponent == 0 {
        mantissa * f32::from_bits(0x3B00_0000) // 2^-9
    } else {
        f32::from_bits((exponent as u32 + 120) << 23) * (1.0 + mantissa / 8.0)
    }
}

/// Half of an E8M0 scale, that is `2^(code - 128)`; 255 is NaN. Codes 0 and 1 are exact `f32` subnormals.
pub(crate) fn e8m0_half(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((u32::from(code) - 1) << 23),
    }
}

/// The six-bit scale and minimum `j` (0..8) of a Q4_K or Q5_K super-block's twelve scale bytes.
#[inline(always)]
pub(crate) fn k_scale_min(scales: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        ((scales[j + 4] & 15) | ((scales[j - 4] >> 6) << 4), (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4))
    }
}

/// The six-bit scale `j` (0..16) of a Q3_K super-block's twelve scale bytes, offset removed: -32..=31.
pub(crate) fn q3k_scale(scales: &[u8], j: usize) -> i32 {
    let low = if j < 8 { scales[j] & 15 } else { scales[j - 8] >> 4 };
    let high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
    i32::from(low | (high << 4)) - 32
}

/// Codes, scales and minimums of 32 consecutive weights, taken apart and exact.
///
/// Weight `i` is `scale[i / 16] * factor[i / 16] * code[i] + minimum[i / 16]`, where only Q6_K has a `factor` other
/// than 1 (its int8 sub-scale, which "The bits" sums in integers) and only formats of 16 have two different scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The integer codes, offset removed.
    pub codes: [i8; 32],
    /// `f32` scale of each half.
    pub scale: [f32; 2],
    /// Integer sub-scale of each half.
    pub factor: [i32; 2],
    /// Additive minimum of each half (0 where the format has none).
    pub minimum: [f32; 2],
}

/// How the integer dots of a group become one or two steps of the output's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupShape {
    /// One scale per 32: one step.
    Whole,
    /// One scale per 16: two steps, ascending.
    Halves,
    /// One `f32` scale per 32 and one integer factor per 16: the halves are joined in integers, then one step.
    Factored,
}

impl WeightFormat {
    /// How this format's groups enter the chain; `None` for floating formats.
    pub const fn group_shape(self) -> Option<GroupShape> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3 => None,
            Self::Nvfp4 | Self::Q2K | Self::Q3K => Some(GroupShape::Halves),
            Self::Q6K => Some(GroupShape::Factored),
            _ => Some(GroupShape::Whole),
        }
    }

    /// Whether the format has additive minimums, the second chain of "The bits".
    pub const fn has_minimum(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K | Self::Q2K)
    }
}

/// Takes apart group `index` (32 weights from `32 * index`) of a row of an integer or FP4 format.
///
/// # Panics
/// If `row` is too short or the format is a floating one: callers check shapes when a model is opened.
#[inline]
pub fn unpack_group(format: WeightFormat, row: &[u8], index: usize) -> Group {
    let mut group = Group { codes: [0; 32], scale: [0.0; 2], factor: [1; 2], minimum: [0.0; 2] };
    let groups_a_block = format.block_size() / 32;
    let (size, part) = (format.block_bytes(), index % groups_a_block.max(1));
    let block = &row[index / groups_a_block.max(1) * size..][..size];
    let codes = &mut group.codes;
    match format {
        WeightFormat::Q4_0 | WeightFormat::Q4_1 => {
            let minimum = format == WeightFormat::Q4_1;
            let offset = if minimum { 0 } else { 8 };
            nibble_halves(&block[if minimum { 4 } else { 2 }..], |n| n as i8 - offset, codes);
            group.scale = [read_f16(block, 0); 2];
            if minimum {
                group.minimum = [read_f16(block, 2); 2];
            }
        }
        WeightFormat::Q5_0 | WeightFormat::Q5_1 => {
            let minimum = format == WeightFormat::Q5_1;
            let (at, offset) = if minimum { (4, 0) } else { (2, 16) };
            let high = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            nibble_halves(&block[at + 4..], |n| n as i8, codes);
            for (i, code) in codes.iter_mut().enumerate() {
                *code += (((high >> i) & 1) << 4) as i8 - offset;
            }
            group.scale = [read_f16(block, 0); 2];
            if minimum {
                group.minimum = [read_f16(block, 2); 2];
            }
        }
        WeightFormat::Q8_0 => {
            for (code, byte) in codes.iter_mut().zip(&block[2..34]) {
                *code = *byte as i8;
            }
            group.scale = [read_f16(block, 0); 2];
        }
        WeightFormat::Iq4Nl => {
            nibble_halves(&block[2..], |n| IQ4NL_VALUES[n as usize], codes);
            group.scale = [read_f16(block, 0); 2];
        }
        WeightFormat::Mxfp4 => {
            nibble_halves(&block[1..], |n| E2M1_DOUBLED[n as usize], codes);
            group.scale = [e8m0_half(block[0]); 2];
        }
        WeightFormat::Nvfp4 => {
            for half in 0..2 {
                let sub = 2 * part + half;
                group.scale[half] = 0.5 * ue4m3(block[sub]);
                for i in 0..8 {
                    let byte = block[4 + 8 * sub + i];
                    codes[16 * half + i] = E2M1_DOUBLED[(byte & 15) as usize];
                    codes[16 * half + 8 + i] = E2M1_DOUBLED[(byte >> 4) as usize];
                }
            }
        }
        WeightFormat::Q4K | WeightFormat::Q5K => {
            let five = format == WeightFormat::Q5K;
            let (scale, minimum) = k_scale_min(&block[4..16], part);
            let nibbles = &block[if five { 48 } else { 16 }..][32 * (part / 2)..][..32];
            let shift = 4 * (part % 2);
            for (i, code) in codes.iter_mut().enumerate() {
                let high = if five { ((block[16 + i] >> part) & 1) << 4 } else { 0 };
                *code = (((nibbles[i] >> shift) & 15) | high) as i8;
            }
            group.scale = [read_f16(block, 0) * f32::from(scale); 2];
            group.minimum = [-(read_f16(block, 2) * f32::from(minimum)); 2];
        }
        WeightFormat::Q6K => {
            // Two runs of 128; in each, four groups of 32 share 64 bytes of low nibbles and 32 of high pairs.
            let (run, quarter) = (part / 4, part % 4);
            let low = &block[64 * run + 32 * (quarter % 2)..][..32];
            let high = &block[128 + 32 * run..][..32];
            for (i, code) in codes.iter_mut().enumerate() {
                let nibble = (low[i] >> (4 * (quarter / 2))) & 15;
                *code = (nibble | (((high[i] >> (2 * quarter)) & 3) << 4)) as i8 - 32;
            }
            let scales = &block[192 + 8 * run + 2 * quarter..];
            group.factor = [i32::from(scales[0] as i8), i32::from(scales[1] as i8)];
            group.scale = [read_f16(block, 208); 2];
        }
        WeightFormat::Q2K => {
            let (run, quarter) = (part / 4, part % 4);
            let (d, dmin) = (read_f16(block, 80), read_f16(block, 82));
            for (i, code) in codes.iter_mut().enumerate() {
                *code = ((block[16 + 32 * run + i] >> (2 * quarter)) & 3) as i8;
            }
            for half in 0..2 {
                let byte = block[2 * part + half];
                group.scale[half] = d * f32::from(byte & 15);
                group.minimum[half] = -(dmin * f32::from(byte >> 4));
            }
        }
        WeightFormat::Q3K => {
            let (run, quarter) = (part / 4, part % 4);
            let d = read_f16(block, 108);
            for (i, code) in codes.iter_mut().enumerate() {
                let low = ((block[32 + 32 * run + i] >> (2 * quarter)) & 3) as i8;
                let high = (block[i] >> part) & 1;
                *code = if high == 0 { low - 4 } else { low };
            }
            for half in 0..2 {
                group.scale[half] = d * q3k_scale(&block[96..108], 2 * part + half) as f32;
            }
        }
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::F8E4M3 => {
            unreachable!("floating formats have no integer groups")
        }
    }
    group
}

/// Element `i` is the low nibble of byte `i`, element `i + 16` its high nibble.
#[inline(always)]
fn nibble_halves(bytes: &[u8], value: impl Fn(u8) -> i8, codes: &mut [i8; 32]) {
    for (i, byte) in bytes[..16].iter().enumerate() {
        codes[i] = value(byte & 15);
        codes[i + 16] = value(byte >> 4);
    }
}

/// Dequantizes one row: `out[k]` is the exact value of weight `k`, rounded once where the format's product needs it.
///
/// # Panics
/// If `out` is not a whole number of blocks or `row` is too short for it.
pub fn dequantize_row(format: WeightFormat, row: &[u8], out: &mut [f32]) {
    match format {
        WeightFormat::F32 => {
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        WeightFormat::F16 => {
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *value = f16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        WeightFormat::Bf16 => {
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *value = bf16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        WeightFormat::F8E4M3 => {
            for (value, code) in out.iter_mut().zip(row) {
                *value = crate::fp8::e4m3_to_f32(*code);
            }
        }
        _ => {
            for (index, chunk) in out.chunks_mut(32).enumerate() {
                dequantize_group(&unpack_group(format, row, index), chunk);
            }
        }
    }
}

/// The values of a group's weights. The scale times the factor is exact in `f32` for every format; the product with
/// the code is rounded once, and the minimum is added with one more rounding, as the formats' publishers do.
pub(crate) fn dequantize_group(group: &Group, out: &mut [f32]) {
    for (i, (value, code)) in out.iter_mut().zip(group.codes).enumerate() {
        let half = i / 16;
        let scale = group.scale[half] * group.factor[half] as f32;
        *value = scale * f32::from(code) + group.minimum[half];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_bytes_wants_whole_blocks() {
        for format in WeightFormat::ALL {
            let block = format.block_size();
            assert_eq!(format.row_bytes(3 * block), Some(3 * format.block_bytes()), "{}", format.name());
            if block > 1 {
                assert_eq!(format.row_bytes(3 * block + 1), None);
            }
        }
        assert_eq!(WeightFormat::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn scale_codes_decode_exactly() {
        assert_eq!(ue4m3(0x7E), 448.0);
        assert_eq!(ue4m3(0x38), 1.0);
        assert_eq!(ue4m3(1), 1.0 / 512.0);
        assert!(ue4m3(0x7F).is_nan());
        for code in 0..=254_u8 {
            let expected = 0.5_f64 * f64::from_bits((u64::from(code) + 1023 - 127) << 52);
            assert_eq!(f64::from(e8m0_half(code)), expected, "code {code}");
        }
    }

    #[test]
    fn nvfp4_block_of_the_specification() {
        // The worked block of the format's description, in GGUF's split-halves order, without a matrix scale.
        let linear = [0x10_u8, 0x2a, 0x5c, 0xf6, 0x00, 0x11, 0x22, 0x32];
        let mut elements = [0_u8; 16];
        for (i, byte) in linear.iter().enumerate() {
            elements[2 * i] = byte & 15;
            elements[2 * i + 1] = byte >> 4;
        }
        let mut block = [0_u8; 36];
        block[..4].fill(0x7e);
        for i in 0..8 {
            block[4 + i] = elements[i] | (elements[i + 8] << 4);
        }
        let mut out = [0.0; 64];
        dequantize_row(WeightFormat::Nvfp4, &block, &mut out);
        let expected =
            [0., 0.125, -0.25, 0.25, -0.5, 0.75, 1., -1.5, 0., 0., 0.125, 0.125, 0.25, 0.25, 0.25, 0.375];
        for (value, wanted) in out[..16].iter().zip(expected) {
            assert_eq!(value / 1792.0, wanted);
        }
    }
}
