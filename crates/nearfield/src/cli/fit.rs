//! `nearfield fit`.

mod line_up;

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use nearfield_engine::{
    DECODE_SHARE, DecodeReads, EngineError, EngineOptions, Plan, WeightBytes, WeightsHeld, available_memory,
    memory_bandwidth,
};
use nearfield_hub::{CatalogueEntry, Hub, HubError, format_bytes};
use nearfield_model::{Architecture, LineUpModel, Model};
use serde_json::json;

use super::options::{ConfigArgs, EngineArgs};
use crate::app::App;
use crate::config::Bytes;
use crate::output::Stdout;
use crate::signals::exit_when_stopped;

/// Tell whether a model fits this machine's memory, and how fast it can be, without loading it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FitCommand {
    /// The model: here, one of the catalogue whose sizes are known, or one of the line-up; without it, the line-up
    #[arg(value_name = "MODEL")]
    model: Option<String>,

    /// Memory to plan for [default: what this machine has available]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,

    /// Bytes of memory read in a second, such as 1008GB/s [default: measured on this machine]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bandwidth: Option<f64>,

    /// Requests at once, which share the cache
    #[arg(long, value_name = "N", default_value = "1")]
    slots: NonZeroUsize,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  nearfield fit qwen2.5-coder:1.5b
  nearfield fit qwen2.5-coder:1.5b --context 32768 --kv q8
  nearfield fit --memory 24GiB --bandwidth 1008GB/s
  nearfield fit qwen3.6-27b --memory 32GiB

Memory is planned as `run` and, with its number of slots, `serve` do it. Decoding reads all weights for each token, \
so the speed at which memory is read, which takes half a second to measure, over those bytes is the limit; three \
quarters of it are to be expected on an idle machine. Exit code 1 when the model does not fit.";

/// What there is to know about a model before it is loaded.
struct Known {
    name: String,
    /// Whether its files are on this machine.
    here: bool,
    architecture: Architecture,
    weights: WeightBytes,
    reads: DecodeReads,
}

/// The answer.
struct Fit {
    known: Known,
    plan: Plan,
    /// Memory there is.
    available: Option<u64>,
    fits: bool,
    threads: usize,
    /// Bytes a second.
    bandwidth: f64,
}

impl FitCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let config = self.config.load()?;
        exit_when_stopped();
        let mut options = self.engine.options(&config.local);
        options.slots = self.slots.get();
        options.memory_bytes = self.memory.map(|bytes| bytes.0).or(options.memory_bytes);
        let Some(name) = &self.model else {
            return line_up::show(LineUpModel::all(), &options, self.bandwidth, self.json);
        };
        if let Some(model) = LineUpModel::find(name) {
            return line_up::show(std::slice::from_ref(model), &options, self.bandwidth, self.json);
        }
        let known = known(&app.hub()?, name, &options)?;
        let available = options.memory_bytes.or_else(available_memory);
        let (plan, fits) = plan(&known, &options)?;
        let bandwidth = bandwidth(self.bandwidth, &options)?;
        let fit = Fit { known, plan, available, fits, threads: options.thread_count(), bandwidth };
        let mut stdout = Stdout::new();
        if self.json {
            stdout.json(&fit.json())?;
        } else {
            for (label, value) in fit.lines() {
                stdout.line(&format!("{label:<10} {value}"))?;
            }
        }
        if fit.fits {
            return Ok(());
        }
        let needed = fit.plan.total_bytes();
        Err(EngineError::OutOfMemory { needed, available: available.unwrap_or(u64::MAX) }.into())
    }
}

/// Reads a model's files as far as they say how large it is, or else the catalogue.
fn known(hub: &Hub, name: &str, options: &EngineOptions) -> Result<Known> {
    let description = hub.show(name)?;
    if let Some(installed) = description.installed {
        let model = Model::open(&installed.path)?;
        return Ok(Known {
            name: installed.name,
            here: true,
            architecture: model.architecture().clone(),
            weights: WeightBytes::of(model.tensors().sizes()),
            reads: DecodeReads::for_model(&model, options.cache_type(model.architecture())),
        });
    }
    match description.entry {
        Some(entry) => from_catalogue(&entry, options),
        None => Err(HubError::NotInstalled { name: description.reference }.into()),
    }
}

fn from_catalogue(entry: &CatalogueEntry, options: &EngineOptions) -> Result<Known> {
    let name = entry.name.clone();
    let Some(sizes) = &entry.sizes else {
        bail!(
            "the sizes of {name} are not known before it is here (its files have {}); `nearfield pull {name}` gets it",
            format_bytes(entry.bytes)
        );
    };
    let architecture = Architecture::from_config(Path::new("the catalogue"), &sizes.config)?;
    let reads = DecodeReads::new(&architecture, sizes.decode_bytes, options.cache_type(&architecture));
    Ok(Known {
        name,
        here: false,
        architecture,
        weights: WeightBytes { common: sizes.weight_bytes, ..WeightBytes::default() },
        reads,
    })
}

/// The plan, and whether it fits. What does not fit is planned as if there were room, so that all figures can be shown.
fn plan(known: &Known, options: &EngineOptions) -> Result<(Plan, bool), EngineError> {
    let within =
        |options: &EngineOptions| Plan::for_architecture(&known.architecture, known.weights, options);
    match within(options) {
        Ok(plan) => Ok((plan, true)),
        Err(EngineError::OutOfMemory { .. }) => {
            let unlimited = EngineOptions { memory_bytes: Some(u64::MAX), ..options.clone() };
            within(&unlimited).map(|plan| (plan, false))
        }
        Err(error) => Err(error),
    }
}

impl Fit {
    /// Tokens a second at a position: what is to be expected, and what memory allows.
    fn speed(&self, position: usize) -> (f64, f64) {
        let limit = self.known.reads.limit(position, self.bandwidth);
        (limit * DECODE_SHARE, limit)
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let (plan, reads) = (&self.plan, &self.known.reads);
        let tokens = match plan.slots {
            1 => format!("{} tokens", plan.cache_positions),
            slots => format!("{} tokens for {slots} requests", plan.cache_positions),
        };
        let available = match self.available {
            Some(bytes) => {
                format!("{}: {}", mib(bytes), if self.fits { "it fits" } else { "it does not fit" })
            }
            None => "unknown: this system does not say".to_owned(),
        };
        let full = reads.key_value_bytes(plan.context);
        let ((start, most), (end, least)) = (self.speed(0), self.speed(plan.context));
        let share = 100.0 * full as f64 / (full + reads.weight_bytes).max(1) as f64;
        let here = if self.known.here { "" } else { ", not on this machine" };
        let place = match plan.weights {
            WeightsHeld::Memory => "copied into memory for the kernels".to_owned(),
            WeightsHeld::ExpertsMapped => {
                format!(
                    "copied into memory for the kernels; experts, {}, stay in the file",
                    mib(plan.file_bytes)
                )
            }
            WeightsHeld::Mapped => "mapped: read where they lie in the file".to_owned(),
        };
        vec![
            ("model", format!("{}{here}", self.known.name)),
            ("weights", format!("{}, {place}", mib(plan.weight_bytes))),
            (
                "cache",
                format!(
                    "{}: {:.1} KiB a token, {tokens}, context {}",
                    mib(plan.cache_bytes()),
                    plan.key_value_bytes_per_position as f64 / 1024.0,
                    plan.context,
                ),
            ),
            ("scratch", mib(plan.scratch_bytes)),
            ("total", mib(plan.total_bytes())),
            ("available", available),
            ("memory", format!("{:.1} GB/s read with {} threads", self.bandwidth / 1e9, self.threads)),
            (
                "a token",
                format!(
                    "reads {} of weights and, with the context full, {} of keys and values ({share:.0}%)",
                    mib(reads.weight_bytes),
                    mib(full),
                ),
            ),
            (
                "decode",
                format!(
                    "about {start:.0} tok/s at the start, {end:.0} with the context full (memory allows {most:.0} and {least:.0})"
                ),
            ),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let (plan, reads) = (&self.plan, &self.known.reads);
        let (start, full) = (self.speed(0), self.speed(plan.context));
        json!({
            "model": self.known.name,
            "here": self.known.here,
            "fits": self.fits,
            "context": plan.context,
            "slots": plan.slots,
            "weights_bytes": plan.weight_bytes,
            "weights": plan.weights.name(),
            "kv_bytes_per_token": plan.key_value_bytes_per_position,
            "kv_tokens": plan.cache_positions,
            "kv_bytes": plan.cache_bytes(),
            "scratch_bytes": plan.scratch_bytes,
            "total_bytes": plan.total_bytes(),
            "available_bytes": self.available,
            "threads": self.threads,
            "bandwidth_bytes_per_second": self.bandwidth.round(),
            "decode": {
                "weights_bytes": reads.weight_bytes,
                "kv_bytes_full_context": reads.key_value_bytes(plan.context),
                "tokens_per_second": start.0,
                "tokens_per_second_limit": start.1,
                "tokens_per_second_full_context": full.0,
                "tokens_per_second_limit_full_context": full.1,
            },
        })
    }
}

/// What was said, or what is measured.
fn bandwidth(said: Option<f64>, options: &EngineOptions) -> Result<f64, EngineError> {
    said.map_or_else(|| memory_bandwidth(options), Ok)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let amount = text.trim().strip_suffix("/s").unwrap_or(text);
    let bytes = Bytes::parse(amount).ok_or("expected an amount for each second, such as 1008GB/s")?;
    Ok(bytes.0 as f64)
}

fn mib(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 10.0 { format!("{mib:.1} MiB") } else { format!("{mib:.0} MiB") }
}
