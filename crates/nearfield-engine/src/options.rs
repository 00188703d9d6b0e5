//! How an engine is started.

use nearfield_kernels::{KernelSet, KeyValueType};
use nearfield_model::Architecture;

use crate::cache::PrefixFiles;
use crate::runner::Arithmetic;

/// Whether tokens are guessed ahead, to be checked several at a time. Answers are the same in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// Never.
    Off,
    /// As many as pay, by what was right before and what steps are measured to take.
    #[default]
    Adaptive,
    /// So many where there are guesses, whether or not they pay: for tests and measurements.
    Always(usize),
}

/// Where guesses come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafting {
    /// From what prompt and answer said before, or from the model's draft head if it has one: whichever promises more.
    #[default]
    Automatic,
    /// From what prompt and answer said before.
    LookUp,
    /// From the model's draft head; nothing is guessed where there is none.
    Head,
}

/// Where weights are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightsPlace {
    /// In memory when everything fits with some to spare (an eighth, at most 2 GiB); all but routed experts, when that
    /// does; else mapped.
    #[default]
    Automatic,
    /// Copied into memory of their own, laid out for the kernels: faster.
    Memory,
    /// Left in the mapped file: the system may drop what is not in use.
    Mapped,
}

/// How an [`Engine`](crate::Engine) computes and how much it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Threads that compute; `None` takes one for each processor that this process may use.
    pub threads: Option<usize>,
    /// Positions that one sequence may reach; `None` takes the model's own, at most 8192, less if it does not fit.
    pub context: Option<usize>,
    /// Element type of cached keys and values; `None` takes FP8 where a checkpoint asks for it, else F16.
    pub key_value_type: Option<KeyValueType>,
    /// Default or exact.
    pub arithmetic: Arithmetic,
    /// Kernel set; `None` takes the fastest, or what `NEARFIELD_KERNELS` names.
    pub kernels: Option<KernelSet>,
    /// Whether tokens are guessed ahead.
    pub speculation: Speculation,
    /// Where guesses come from.
    pub drafting: Drafting,
    /// Sequences that may run at once (each choice of a request is one).
    pub slots: usize,
    /// Requests that may wait for a slot. With none, a request that cannot start at once is refused.
    pub queue: usize,
    /// Bytes for cached keys and values; `None` takes a quarter of the available memory. Never less than one context.
    pub cache_bytes: Option<u64>,
    /// Bytes of the cache that may hold the beginnings of earlier requests, so that later ones need not compute them
    /// again; `None` sets no limit but the cache's own, 0 keeps nothing.
    pub prefix_cache_bytes: Option<u64>,
    /// Where the beginnings of requests are kept over restarts; nowhere unless somebody asks for it.
    pub prefix_files: Option<PrefixFiles>,
    /// Where weights are read from.
    pub weights: WeightsPlace,
    /// Bytes that everything together may take; `None` takes what the system says is available.
    pub memory_bytes: Option<u64>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: None,
            context: None,
            key_value_type: None,
            arithmetic: Arithmetic::Default,
            kernels: None,
            speculation: Speculation::Adaptive,
            drafting: Drafting::Automatic,
            slots: 32,
            queue: 0,
            cache_bytes: None,
            prefix_cache_bytes: None,
            prefix_files: None,
            weights: WeightsPlace::Automatic,
            memory_bytes: None,
        }
    }
}

impl EngineOptions {
    /// Element type of cached keys and values, with the default worked out.
    pub fn cache_type(&self, architecture: &Architecture) -> KeyValueType {
        let own = if architecture.wants_fp8_cache { KeyValueType::F8 } else { KeyValueType::F16 };
        self.key_value_type.unwrap_or(own)
    }

    /// Threads, with the default worked out.
    pub fn thread_count(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(all).max(1)
    }
}
