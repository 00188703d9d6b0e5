//! The line-up: what of it fits, in which format and with which context, without any of its files.

use std::path::Path;

use anyhow::Result;
use nearfield_engine::{DECODE_SHARE, DecodeReads, EngineError, EngineOptions, Plan, available_memory};
use nearfield_model::{LineUpModel, TensorRole};
use nearfield_quantize::synth::{SynthFormat, SynthModel, SynthOptions, sizes};
use serde_json::{Value, json};

use super::bandwidth;
use crate::output::{Align, Stdout, Table};

/// Formats with their names: layers as the name says, and embeddings and head as they are published with it.
const FORMATS: [(&str, SynthFormat, SynthFormat, &str); 4] = [
    ("BF16", SynthFormat::Bf16, SynthFormat::Bf16, "checkpoint"),
    ("FP8", SynthFormat::Fp8, SynthFormat::Bf16, "checkpoint"),
    ("NVFP4", SynthFormat::Nvfp4, SynthFormat::Bf16, "checkpoint"),
    ("Q4_0", SynthFormat::Q4_0, SynthFormat::Q8_0, "file.gguf"),
];

/// Contexts that are tried where none is asked for.
const CONTEXTS: [usize; 3] = [8192, 32_768, 131_072];

/// A model in one format with one context.
struct Entry {
    model: &'static str,
    format: &'static str,
    context: usize,
    fits: bool,
    plan: Plan,
    /// Bytes of the table of which a token needs a row: it stays in the file.
    table: u64,
    /// Tokens a second at the start and with the context full.
    speed: [f64; 2],
    reads: u64,
    not_computed: &'static str,
}

/// Prints the models in all formats.
pub(super) fn show(
    models: &'static [LineUpModel],
    options: &EngineOptions,
    said: Option<f64>,
    as_json: bool,
) -> Result<()> {
    let rate = bandwidth(said, options)?;
    let memory = options.memory_bytes.or_else(available_memory).unwrap_or(u64::MAX);
    let mut entries = Vec::new();
    for model in models {
        for format in FORMATS {
            // One model in detail, all of them in short.
            let contexts = match options.context {
                Some(_) => vec![options.context],
                None if models.len() == 1 => CONTEXTS.map(Some).to_vec(),
                None => vec![None],
            };
            for context in contexts {
                let options = EngineOptions { context, memory_bytes: Some(memory), ..options.clone() };
                entries.push(entry(model, format, &options, rate)?);
            }
        }
    }
    let mut stdout = Stdout::new();
    if as_json {
        let entries: Vec<Value> = entries.iter().map(Entry::json).collect();
        let all =
            json!({ "memory_bytes": memory, "bandwidth_bytes_per_second": rate.round(), "models": entries });
        return stdout.json(&all);
    }
    for line in table(&entries).lines() {
        stdout.line(&line)?;
    }
    let (memory, rate) = (gib(memory), rate / 1e9);
    let requests = if options.slots == 1 { "request" } else { "requests" };
    stdout.line(&format!(
        "\nFor {memory} GiB of memory read at {rate:.1} GB/s, {} {requests} at once. NEEDS is the plan: weights, cache \
         and scratch.\nIN FILE is the table of inputs for single layers: a token needs one row,\nand the system may \
         drop the rest; it is not in NEEDS. TOK/S is to be expected at the start, FULL with the context full, without guesses ahead.\nOnly text is \
         computed: what the files hold for images and sound is left out.",
        options.slots
    ))
}

fn entry(
    model: &LineUpModel,
    (name, format, tables, file): (&'static str, SynthFormat, SynthFormat, &str),
    options: &EngineOptions,
    rate: f64,
) -> Result<Entry> {
    let shape = SynthModel::new(model)?;
    let format = SynthOptions { format, tables, seed: 0 };
    let sizes = sizes(&shape, &format, Path::new(file))?;
    let is_table = |role: TensorRole| role == TensorRole::PerLayerEmbedding;
    let table = sizes.iter().filter(|(role, _)| is_table(*role)).map(|(_, bytes)| bytes).sum();
    let weights: u64 = sizes.iter().filter(|(role, _)| !is_table(*role)).map(|(_, bytes)| bytes).sum();
    let architecture = &shape.architecture;
    let (plan, fits) = match Plan::for_architecture(architecture, weights, options) {
        Ok(plan) => (plan, true),
        Err(EngineError::OutOfMemory { .. }) => {
            let unlimited = EngineOptions { memory_bytes: Some(u64::MAX), ..options.clone() };
            (Plan::for_architecture(architecture, weights, &unlimited)?, false)
        }
        Err(error) => return Err(error.into()),
    };
    let reads =
        DecodeReads::from_sizes(architecture, !shape.own_head, sizes.into_iter(), options.key_value_type);
    let speed = [0, plan.context].map(|position| reads.limit(position, rate) * DECODE_SHARE);
    Ok(Entry {
        model: model.name,
        format: name,
        context: plan.context,
        fits,
        plan,
        table,
        speed,
        reads: reads.weight_bytes + reads.state_bytes,
        not_computed: model.not_computed(),
    })
}

fn table(entries: &[Entry]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("MODEL", Left),
        ("FORMAT", Left),
        ("CONTEXT", Right),
        ("FITS", Left),
        ("NEEDS GiB", Right),
        ("WEIGHTS", Right),
        ("CACHE", Right),
        ("SCRATCH", Right),
        ("IN FILE", Right),
        ("A TOKEN READS", Right),
        ("TOK/S", Right),
        ("FULL", Right),
    ]);
    for entry in entries {
        let plan = &entry.plan;
        table.row([
            entry.model.to_owned(),
            entry.format.to_owned(),
            entry.context.to_string(),
            if entry.fits { "yes" } else { "no" }.to_owned(),
            gib(plan.total_bytes()),
            gib(plan.weight_bytes),
            gib(plan.cache_bytes()),
            gib(plan.scratch_bytes),
            if entry.table > 0 { gib(entry.table) } else { String::new() },
            gib(entry.reads),
            speed(entry.speed[0]),
            speed(entry.speed[1]),
        ]);
    }
    table
}

impl Entry {
    fn json(&self) -> Value {
        json!({
            "model": self.model,
            "format": self.format,
            "context": self.context,
            "fits": self.fits,
            "total_bytes": self.plan.total_bytes(),
            "weights_bytes": self.plan.weight_bytes,
            "kv_bytes": self.plan.cache_bytes(),
            "scratch_bytes": self.plan.scratch_bytes,
            "left_in_file_bytes": self.table,
            "token_reads_bytes": self.reads,
            "tokens_per_second": self.speed[0],
            "tokens_per_second_full_context": self.speed[1],
            "not_computed": self.not_computed,
        })
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 30))
}

fn speed(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
