//! Block formats, SIMD kernels and the thread pool of Nearfield.
//!
//! The scalar versions are "The bits" of `docs/numerics.md` in code; every other version equals them bit for bit.
#![expect(
    unsafe_code,
    reason = "SIMD intrinsics and the thread pool; each block carries its safety argument"
)]

mod format;

pub use format::{
    Group, GroupShape, WeightFormat, bf16_to_f32, dequantize_row, f16_to_f32, f32_to_bf16, f32_to_f16,
    unpack_group,
};
