//! Nearfield's inference engine.
//!
//! [`Runner`] computes the graph for batches of tokens; nothing outside sees a tensor.
#![expect(unsafe_code, reason = "threads of one section write disjoint parts of the same buffers")]

mod cache;
mod error;
mod plan;
mod rope;
mod runner;
mod shared;
mod weights;

pub use cache::Sequence;
pub use error::EngineError;
pub use nearfield_kernels::{KernelSet, KeyValueType};
pub use plan::Plan;
pub use runner::{Arithmetic, Chunk, Logits, LogitsWanted, Runner, RunnerOptions};
