//! The line-up: what of it fits, in which format and with which context, without any of its files.

use std::path::Path;

use anyhow::Result;
use nearfield_engine::{
    DECODE_SHARE, DecodeReads, EngineError, EngineOptions, Plan, WeightBytes, WeightsHeld, available_memory,
};
use nearfield_model::LineUpModel;
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
         and scratch.\nIN FILE is read where it lies in the file, as far as the system has room, and is not in NEEDS: \
         the table of inputs\nfor single layers, of which a token needs one row, and experts where memory is short (a model \
         fits in part then,\nand its speed is the disk's). TOK/S is to be expected at the start, FULL with the context \
         full, without guesses ahead.\nOnly text is computed: what the files hold for images and sound is left out.",
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
    let weights = WeightBytes::of(sizes.iter().copied());
    let architecture = &shape.architecture;
    let (plan, fits) = match Plan::for_architecture(architecture, weights, options) {
        Ok(plan) => (plan, true),
        Err(EngineError::OutOfMemory { .. }) => {
            let unlimited = EngineOptions { memory_bytes: Some(u64::MAX), ..options.clone() };
            (Plan::for_architecture(architecture, weights, &unlimited)?, false)
        }
        Err(error) => return Err(error.into()),
    };
    let reads = DecodeReads::from_sizes(
        architecture,
        !shape.own_head,
        sizes.into_iter(),
        options.cache_type(architecture),
    );
    let speed = [0, plan.context].map(|position| reads.limit(position, rate) * DECODE_SHARE);
    Ok(Entry {
        model: model.name,
        format: name,
        context: plan.context,
        fits,
        plan,
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
            match (entry.fits, entry.in_part()) {
                (true, true) => "in part",
                (true, false) => "yes",
                (false, _) => "no",
            }
            .to_owned(),
            gib(plan.total_bytes()),
            gib(plan.weight_bytes),
            gib(plan.cache_bytes()),
            gib(plan.scratch_bytes),
            if plan.file_bytes > 0 { gib(plan.file_bytes) } else { String::new() },
            gib(entry.reads),
            entry.speeds()[0].map_or_else(String::new, speed),
            entry.speeds()[1].map_or_else(String::new, speed),
        ]);
    }
    table
}

impl Entry {
    /// Whether memory has room for all but the experts.
    fn in_part(&self) -> bool {
        self.plan.weights == WeightsHeld::ExpertsMapped
    }

    /// Tokens a second with an empty and with a full context, where memory alone decides.
    fn speeds(&self) -> [Option<f64>; 2] {
        self.speed.map(|speed| (!self.in_part()).then_some(speed))
    }

    fn json(&self) -> Value {
        json!({
            "model": self.model,
            "format": self.format,
            "context": self.context,
            "fits": self.fits,
            "experts_in_file": self.in_part(),
            "total_bytes": self.plan.total_bytes(),
            "weights_bytes": self.plan.weight_bytes,
            "kv_bytes": self.plan.cache_bytes(),
            "scratch_bytes": self.plan.scratch_bytes,
            "left_in_file_bytes": self.plan.file_bytes,
            "token_reads_bytes": self.reads,
            "tokens_per_second": self.speeds()[0],
            "tokens_per_second_full_context": self.speeds()[1],
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
