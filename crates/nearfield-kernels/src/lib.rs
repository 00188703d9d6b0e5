//! Block formats, SIMD kernels and the thread pool of Nearfield.
//!
//! The scalar versions are "The bits" of `docs/numerics.md` in code; every other version equals them bit for bit.
#![expect(
    unsafe_code,
    reason = "SIMD intrinsics, disjoint writes and the thread pool; each block carries its safety argument"
)]

mod activation;
mod attention;
mod bandwidth;
mod convolution;
mod delta_net;
mod format;
mod fp4;
mod fp8;
mod key_value;
pub mod math;
mod matmul;
mod memory;
mod panel;
mod peak;
mod pool;
mod router;
mod set;
mod simd;
mod tile;
mod trial;
pub mod vector;

pub use activation::{GROUP, QuantizedRow, QuantizedRows};
pub use attention::{
    AttentionScratch, AttentionSettings, PagedKeyValues, Queries, SEGMENT_POSITIONS, attention,
};
pub use bandwidth::{ReadBuffer, read_bandwidth};
pub use convolution::convolve;
pub use delta_net::{DeltaTokens, delta_decay, delta_net, delta_net_ahead, unit_norm};
pub use format::{
    Group, GroupShape, WeightFormat, bf16_to_f32, dequantize_row, f16_to_f32, f32_to_bf16, f32_to_f16,
    unpack_group,
};
pub use fp4::{Fp4Planes, PlanesMismatch};
pub use fp8::{FP8_BLOCK, Fp8Scales, ScalesMismatch, e4m3_to_f32, f32_to_e4m3};
pub use key_value::{KeyValueLayout, KeyValueType, PAGE_POSITIONS};
pub use matmul::{Activations, MatmulScratch, Output, ROW_QUANTUM, ShapeMismatch, WeightMatrix, matmul};
pub use memory::LargeMemory;
pub use panel::{PANEL_ROWS, pack};
pub use peak::integer_peak;
pub use pool::ThreadPool;
pub use router::{Chosen, add_scaled, choose_experts, sigmoid, times_sigmoid, times_silu};
pub use set::{KernelSet, UnsupportedKernels};
