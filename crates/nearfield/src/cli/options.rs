//! Flags that several commands share.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nearfield_api::Sampling;
use nearfield_engine::EngineOptions;

use crate::config::{
    ArithmeticName, Config, ConfigError, KeyValueName, LocalSection, PrefixCache, SpeculationName,
};

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file [env: NEARFIELD_CONFIG] [default: nearfield/nearfield.toml in the platform's
    /// configuration folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref())
    }
}

/// Whether the network is used at all.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OfflineArgs {
    /// Have the kernel refuse the network to this process: no cloud, no pulls; local pools by Unix socket only
    #[arg(long)]
    pub(super) offline: bool,
}

/// How the local engine computes. Each goes before the environment, and that before `[local]` of the configuration.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Local engine")]
pub(super) struct EngineArgs {
    /// Threads [default: one for each processor]
    #[arg(long, value_name = "N", env = "NEARFIELD_THREADS", hide_env_values = true)]
    threads: Option<NonZeroUsize>,

    /// Tokens that prompt and answer may have together [default: the model's own, at most 8192, less if it does
    /// not fit]
    #[arg(long, value_name = "TOKENS", env = "NEARFIELD_CONTEXT", hide_env_values = true)]
    context: Option<NonZeroUsize>,

    /// Element type of cached keys and values [default: f16]
    #[arg(
        long,
        value_name = "TYPE",
        value_enum,
        hide_possible_values = true,
        env = "NEARFIELD_KV",
        hide_env_values = true,
        help = "Cached keys and values: f32, f16, bf16, q8 or fp8 [default: f16; fp8 where a checkpoint asks for it]"
    )]
    kv: Option<KeyValueName>,

    /// Memory for the beginnings of earlier requests, which later ones need not compute again: an amount such as
    /// 512MiB, or off [default: what running requests leave of the cache]
    #[arg(long, value_name = "SIZE", env = "NEARFIELD_PREFIX_CACHE", hide_env_values = true)]
    prefix_cache: Option<PrefixCache>,

    /// Arithmetic: default (8-bit activations, fast) or exact (32-bit, slow)
    #[arg(
        long,
        value_name = "WHICH",
        value_enum,
        hide_possible_values = true,
        env = "NEARFIELD_ARITHMETIC",
        hide_env_values = true
    )]
    arithmetic: Option<ArithmeticName>,

    /// Guess tokens ahead where that is faster: on, off, look-up (from the text only) or mtp (by the model's own head
    /// only); answers are the same [default: on]
    #[arg(
        long,
        value_name = "WHICH",
        value_enum,
        hide_possible_values = true,
        env = "NEARFIELD_SPECULATION",
        hide_env_values = true
    )]
    speculation: Option<SpeculationName>,
}

impl EngineArgs {
    /// Flags and environment over the configuration over the defaults.
    pub(super) fn options(&self, local: &LocalSection) -> EngineOptions {
        let mut options = EngineOptions {
            threads: self.threads.or(local.threads).map(NonZeroUsize::get),
            context: self.context.or(local.context).map(NonZeroUsize::get),
            prefix_cache_bytes: self.prefix_cache.or(local.prefix_cache).map(|bytes| bytes.0),
            memory_bytes: local.memory.map(|bytes| bytes.0),
            ..EngineOptions::default()
        };
        if let Some(name) = self.kv.or(local.kv) {
            options.key_value_type = Some(name.into());
        }
        if let Some(name) = self.arithmetic.or(local.arithmetic) {
            options.arithmetic = name.into();
        }
        if let Some(name) = self.speculation.or(local.speculation) {
            name.set(&mut options);
        }
        if let Some(slots) = local.slots {
            options.slots = slots.get();
        }
        if let Some(queue) = local.queue {
            options.queue = queue;
        }
        options
    }
}

/// How tokens are chosen and when the answer ends.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answer")]
pub(super) struct SamplingArgs {
    /// Divides the logits: 0 always takes the likeliest token [default: the model's own, else 0.8]
    #[arg(long, value_name = "T", value_parser = parse_temperature)]
    pub(super) temperature: Option<f32>,

    /// Keep the likeliest tokens that together have this probability [default: the model's own, else 0.95]
    #[arg(long, value_name = "P", value_parser = parse_probability)]
    pub(super) top_p: Option<f32>,

    /// Makes sampling repeatable
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,

    /// Most tokens to generate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_tokens: Option<u32>,
}

impl SamplingArgs {
    /// The flags that were given, for commands on which they have no effect.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--temperature", self.temperature.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--seed", self.seed.is_some()),
            ("--max-tokens", self.max_tokens.is_some()),
        ];
        flags.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }
}

/// The rest of what shapes an answer of `run` and `chat`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answer")]
pub(super) struct AnswerArgs {
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,

    /// Keep this many of the likeliest tokens; 0 keeps all [default: the model's own, else 40]
    #[arg(long, value_name = "K")]
    pub(super) top_k: Option<u32>,

    /// Drop tokens less likely than this share of the likeliest [default: the model's own, else 0.05]
    #[arg(long, value_name = "P", value_parser = parse_share)]
    pub(super) min_p: Option<f32>,

    /// End the answer at this text, which is not printed; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(super) stop: Vec<String>,

    /// Instructions that come before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
}

impl AnswerArgs {
    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            seed: self.sampling.seed,
            ..Sampling::default()
        }
    }
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    parse_in(text, |number| (0.0..=100.0).contains(&number), "a number from 0 to 100")
}

fn parse_probability(text: &str) -> Result<f32, String> {
    parse_in(text, |number| number > 0.0 && number <= 1.0, "a number above 0 and at most 1")
}

fn parse_share(text: &str) -> Result<f32, String> {
    parse_in(text, |number| (0.0..=1.0).contains(&number), "a number from 0 to 1")
}

fn parse_in(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    text.parse().ok().filter(|number| fits(*number)).ok_or_else(|| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nearfield_engine::{Arithmetic, Drafting, KeyValueType, Speculation};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        engine: EngineArgs,
        #[command(flatten)]
        answer: AnswerArgs,
    }

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace()))
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let local = LocalSection {
            threads: NonZeroUsize::new(3),
            kv: Some(KeyValueName::Q8),
            slots: NonZeroUsize::new(5),
            ..LocalSection::default()
        };
        let line = parse("--kv bf16 --arithmetic exact --speculation off").unwrap();
        let options = line.engine.options(&local);
        assert_eq!((options.threads, options.slots, options.context), (Some(3), 5, None));
        assert_eq!(options.key_value_type, Some(KeyValueType::Bf16));
        assert_eq!(options.arithmetic, Arithmetic::Exact);
        assert_eq!(options.speculation, Speculation::Off);
        for (name, drafting) in
            [("on", Drafting::Automatic), ("look-up", Drafting::LookUp), ("mtp", Drafting::Head)]
        {
            let line = parse(&format!("--speculation {name}")).unwrap();
            let options = line.engine.options(&LocalSection::default());
            assert_eq!((options.speculation, options.drafting), (Speculation::Adaptive, drafting));
        }
        let none = parse("").unwrap().engine.options(&LocalSection::default());
        assert_eq!(none, EngineOptions::default());
    }

    #[test]
    fn numbers_out_of_range_are_wrong_usage() {
        for good in ["--temperature 0", "--top-p 1", "--min-p 0", "--top-k 0", "--max-tokens 1", "--seed 0"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for wrong in [
            "--temperature -1",
            "--temperature=nan",
            "--temperature 101",
            "--top-p 0",
            "--top-p 1.1",
            "--min-p=-0.1",
            "--max-tokens 0",
            "--threads 0",
            "--context 0",
            "--kv f8",
            "--arithmetic fast",
            "--speculation maybe",
            "--seed -1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
