//! Nearfield's inference engine.
//!
//! An [`Engine`] is a loaded model on threads of its own. [`Engine::submit`] takes a prompt as tokens and gives a
//! [`Session`] that yields tokens; text is the business of callers. [`Runner`] is the graph below it, for those who want
//! logits; nothing outside sees a tensor.
#![expect(unsafe_code, reason = "threads of one section write disjoint parts of the same buffers")]

mod admission;
mod cache;
mod compute;
mod counters;
mod drafter;
mod engine;
mod error;
mod graph;
mod memory;
mod options;
mod outbox;
mod outlook;
mod pace;
mod plan;
mod recurrent;
mod request;
mod rope;
mod runner;
mod running;
mod sampler;
mod scheduler;
mod session;
mod shared;
mod speculation;
mod speed;
mod weights;

pub use admission::Load;
pub use cache::{
    CacheDomain, PrefixCounters, PrefixFile, PrefixFiles, Sequence, prefix_file_is_whole, prefix_files,
};
pub use counters::Counters;
pub use drafter::{Drafter, MakeDrafter, SuffixDrafter};
pub use engine::Engine;
pub use error::EngineError;
pub use memory::{available as available_memory, peak as peak_memory};
pub use nearfield_kernels::{KernelSet, KeyValueType};
pub use options::{Drafting, EngineOptions, Speculation, WeightsPlace};
pub use plan::{Plan, WeightBytes, WeightsHeld};
pub use recurrent::Snapshot;
pub use request::{Generate, MAX_ALTERNATIVES, Sampling};
pub use runner::{Arithmetic, Chunk, DraftRow, Logits, LogitsWanted, Runner, RunnerOptions};
pub use session::{FinishReason, Session, SessionStats, Step};
pub use speed::{DECODE_SHARE, DecodeReads, LimitProbe, memory_bandwidth, prefill_operations};

/// The version of the arithmetic that results are made of: the same number, model, prompt, settings and seed give the
/// same tokens on any machine. It stands in every receipt.
pub const NUMERICS_VERSION: u32 = 1;
