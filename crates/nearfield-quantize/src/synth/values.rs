//! Random numbers in every format.

use std::io::Write as _;

use nearfield_kernels::{f32_to_bf16, f32_to_f16, math};
use nearfield_model::{LayerTensor, TensorRole};

/// Steps of splitmix64: what one seed gives is the same everywhere.
#[derive(Clone, Debug)]
struct Random {
    state: u64,
    buffer: [u8; 8],
    /// Bytes of the buffer that were taken.
    taken: usize,
}

impl Random {
    fn new(state: u64) -> Self {
        Self { state, buffer: [0; 8], taken: 8 }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Appends bytes.
    fn bytes(&mut self, mut count: usize, out: &mut Vec<u8>) {
        let rest = count.min(8 - self.taken);
        out.extend_from_slice(&self.buffer[self.taken..][..rest]);
        self.taken += rest;
        count -= rest;
        while count >= 8 {
            out.extend(self.next().to_le_bytes());
            count -= 8;
        }
        if count > 0 {
            self.buffer = self.next().to_le_bytes();
            out.extend_from_slice(&self.buffer[..count]);
            self.taken = count;
        }
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Root mean square of random E2M1 codes.
const E2M1_SPREAD: f32 = 2.926;
/// Root mean square of random codes of Q4_0, from -8 to 7.
const NIBBLE_SPREAD: f32 = 4.637;
/// Root mean square of random signed bytes.
const BYTE_SPREAD: f32 = 73.9;
/// Root mean square of the bytes that [`Source::fp8`] makes.
const E4M3_SPREAD: f32 = 0.865;

/// The numbers of one tensor, row by row. The spread of a matrix is the root of its width's inverse.
#[derive(Clone, Debug)]
pub(super) struct Source {
    role: TensorRole,
    columns: usize,
    codes: Random,
    scales: Random,
}

impl Source {
    pub(super) fn new(seed: u64, role: TensorRole, columns: usize) -> Self {
        // FNV-1a over what the tensor is.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64 ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for byte in format!("{role:?}").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Self { role, columns, codes: Random::new(hash), scales: Random::new(!hash) }
    }

    fn spread(&self) -> f32 {
        (self.columns.max(1) as f32).sqrt().recip()
    }

    /// Codes of E2M1, the first of two in the low half of a byte.
    pub(super) fn e2m1(&mut self, rows: usize, out: &mut Vec<u8>) {
        self.codes.bytes(rows * self.columns / 2, out);
    }

    /// Scales for groups of 16, as E4M3.
    pub(super) fn nvfp4_scales(&mut self, rows: usize, out: &mut Vec<u8>) {
        // Multiples of 2^-9 below 2^-6, where the codes are small whole numbers; eighths of a power of two above.
        let middle = self.spread() / E2M1_SPREAD * 512.0;
        let code = |unit: u8| {
            let value = middle * (0.5 + f32::from(unit) / 255.0);
            if value < 8.0 { value.round().max(1.0) as u8 } else { e4m3_above(value / 512.0) }
        };
        self.scale_bytes(rows * self.columns / 16, code, out);
    }

    /// Scales for groups of 32, as powers of two.
    pub(super) fn mxfp4_scales(&mut self, rows: usize, out: &mut Vec<u8>) {
        let exponent = exponent_of(self.spread() / E2M1_SPREAD);
        self.scale_bytes(rows * self.columns / 32, |unit| (127 + exponent) as u8 + (unit & 1), out);
    }

    fn scale_bytes(&mut self, count: usize, code: impl Fn(u8) -> u8, out: &mut Vec<u8>) {
        let start = out.len();
        self.scales.bytes(count, out);
        for byte in &mut out[start..] {
            *byte = code(*byte);
        }
    }

    /// Blocks of GGUF of 16 or 32 codes a scale, `per_block` scales in front of their codes.
    pub(super) fn fp4_blocks(&mut self, rows: usize, nvfp4: bool, out: &mut Vec<u8>) {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        self.e2m1(rows, &mut codes);
        let (group, per_block) = if nvfp4 { (16, 4) } else { (32, 1) };
        if nvfp4 {
            self.nvfp4_scales(rows, &mut scales);
        } else {
            self.mxfp4_scales(rows, &mut scales);
        }
        for (codes, scales) in codes.chunks_exact(per_block * group / 2).zip(scales.chunks_exact(per_block)) {
            out.extend_from_slice(scales);
            for group in codes.chunks_exact(group / 2) {
                // The first half of a group goes to the low halves of its bytes, the second to the high ones.
                let (first, second) = group.split_at(group.len() / 2);
                for (low, high) in first.iter().zip(second) {
                    out.extend([(low & 15) | (high << 4), (low >> 4) | (high & 0xF0)]);
                }
            }
        }
    }

    pub(super) fn q4_0(&mut self, rows: usize, out: &mut Vec<u8>) {
        self.scaled_blocks(rows, 16, NIBBLE_SPREAD, out);
    }

    pub(super) fn q8_0(&mut self, rows: usize, out: &mut Vec<u8>) {
        self.scaled_blocks(rows, 32, BYTE_SPREAD, out);
    }

    /// Blocks of 32 with a half-precision scale in front.
    fn scaled_blocks(&mut self, rows: usize, code_bytes: usize, spread: f32, out: &mut Vec<u8>) {
        for _ in 0..rows * self.columns / 32 {
            let scale = self.spread() / spread * (1.0 + 0.5 * self.scales.unit());
            out.extend(f32_to_f16(scale).to_le_bytes());
            self.codes.bytes(code_bytes, out);
        }
    }

    /// Codes of E4M3 from 2^-3 to 2^1.
    pub(super) fn fp8(&mut self, rows: usize, out: &mut Vec<u8>) {
        let start = out.len();
        self.codes.bytes(rows * self.columns, out);
        for byte in &mut out[start..] {
            *byte = (*byte & 0x9F) | 0x20;
        }
    }

    /// Scales of blocks of 128x128, as BF16.
    pub(super) fn fp8_scales(&mut self, count: usize, out: &mut Vec<u8>) {
        for _ in 0..count {
            let scale = self.spread() / E4M3_SPREAD * (1.0 + 0.25 * self.scales.unit());
            out.extend(f32_to_bf16(scale).to_le_bytes());
        }
    }

    pub(super) fn bf16(&mut self, rows: usize, out: &mut Vec<u8>) {
        let spread = self.spread() * 3.0_f32.sqrt();
        for _ in 0..rows * self.columns {
            out.extend(f32_to_bf16(spread * self.codes.unit()).to_le_bytes());
        }
    }

    /// The elements of a vector as a checkpoint stores them, rounded to BF16 already. `centred` says that norms are
    /// stored without their 1.
    pub(super) fn vector(&mut self, count: usize, centred: bool) -> Vec<f32> {
        use LayerTensor as L;
        let one = if centred { 0.0 } else { 1.0 };
        let (middle, width) = match self.role {
            TensorRole::Layer {
                part: L::DeltaNorm | L::LayerScale | L::ExpertScale | L::RouterScale,
                ..
            } => (1.0, 0.125),
            TensorRole::Layer { part: L::DeltaDecayRate, .. } => (1.0, 1.0),
            TensorRole::Layer { part: L::DeltaDecayBias, .. } => (-3.0, 2.0),
            // Where scores are not scaled, the norms of keys keep them small.
            TensorRole::Layer { part: L::KeyNorm, .. } if !centred => {
                ((count.max(1) as f32).sqrt().recip(), 0.01)
            }
            role if role.is_norm() => (one, 0.125),
            _ => (0.0, 0.5),
        };
        let rounded = |value: f32| f32::from_bits(u32::from(f32_to_bf16(value)) << 16);
        (0..count).map(|_| rounded(middle + width * self.codes.unit())).collect()
    }

    /// As [`Source::vector`], as GGUF stores them: norms with their 1, decays as negative rates.
    pub(super) fn gguf_vector(&mut self, count: usize, centred: bool) -> Vec<f32> {
        let mut values = self.vector(count, centred);
        for value in &mut values {
            if matches!(self.role, TensorRole::Layer { part: LayerTensor::DeltaDecayRate, .. }) {
                *value = -(math::exp_f64(f64::from(*value)) as f32);
            } else if centred && self.role.is_norm() {
                *value += 1.0;
            }
        }
        values
    }
}

/// Numbers as little-endian bytes.
pub(super) fn f32_bytes(values: &[f32], out: &mut Vec<u8>) {
    for value in values {
        // A vector takes all bytes.
        let _all = out.write(&value.to_le_bytes());
    }
}

/// Numbers that are exact in BF16.
pub(super) fn bf16_bytes(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|value| f32_to_bf16(*value).to_le_bytes()));
}

/// The exponent of a positive normal number.
fn exponent_of(value: f32) -> i32 {
    (value.to_bits() >> 23) as i32 - 127
}

/// The E4M3 code at or below a number from 2^-6 to 448.
fn e4m3_above(value: f32) -> u8 {
    let code = ((exponent_of(value) + 7) << 3) + ((value.to_bits() >> 20) & 7) as i32;
    code.clamp(8, 0x7E) as u8
}
