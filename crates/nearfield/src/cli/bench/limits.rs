//! `nearfield bench --limits`: what share of the machine's limits the engine reaches.

use anyhow::Result;
use nearfield_engine::{DecodeReads, Engine, EngineOptions, LimitProbe, prefill_operations};
use nearfield_model::Model;
use serde_json::{Value, json};

use super::{Run, Spread};

/// Measurements of the machine, each taken right after a run, and the runs as shares of them.
pub(super) struct Limits {
    probe: LimitProbe,
    /// Bytes of the files' tensors that one token reads.
    token_bytes: u64,
    /// Operations of the layers' products for one token of a prompt.
    token_operations: f64,
    reads: Vec<f64>,
    read_shares: Vec<f64>,
    operations: Vec<f64>,
    operation_shares: Vec<f64>,
}

impl Limits {
    pub(super) fn new(model: &Model, engine: &Engine, options: &EngineOptions) -> Result<Self> {
        let token_bytes = DecodeReads::for_model(model, engine.plan().key_value_type).weight_bytes;
        let mut probe = LimitProbe::new(options, engine.kernels(), token_bytes)?;
        // Not counted: the buffer has just been written.
        probe.reads();
        Ok(Self {
            probe,
            token_bytes,
            token_operations: prefill_operations(model),
            reads: Vec::new(),
            read_shares: Vec::new(),
            operations: Vec::new(),
            operation_shares: Vec::new(),
        })
    }

    /// Measures the machine and compares a run with it.
    pub(super) fn measure(&mut self, run: Run) {
        let reads = self.probe.reads();
        self.reads.push(reads);
        self.read_shares.push(run.decode / reads.max(1e-9));
        if let Some(operations) = self.probe.integer_operations() {
            self.operations.push(operations);
            self.operation_shares.push(run.prefill * self.token_operations / operations.max(1e-9));
        }
    }

    pub(super) fn json(&self) -> Value {
        let spread = |values: &[f64]| (!values.is_empty()).then(|| Spread::new(values.to_vec()).json());
        json!({
            "token_bytes": self.token_bytes,
            "reads_per_second": spread(&self.reads),
            "share_of_reads": spread(&self.read_shares),
            "token_operations": self.token_operations,
            "operations_per_second": spread(&self.operations),
            "share_of_operations": spread(&self.operation_shares),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let share = |values: &[f64]| {
            let Spread { median, least, most } = Spread::new(values.to_vec());
            format!("{:.0}%  ({:.0} to {:.0})", 100.0 * median, 100.0 * least, 100.0 * most)
        };
        let (reads, operations) = (Spread::new(self.reads.clone()), Spread::new(self.operations.clone()));
        let gigabytes = reads.median * self.token_bytes as f64 / 1e9;
        let mut lines =
            vec![format!("decode, of what reading {gigabytes:.1} GB/s allows  {}", share(&self.read_shares))];
        if !self.operations.is_empty() {
            let peak = operations.median / 1e9;
            lines.push(format!("prefill, of {peak:.0} G operations/s  {}", share(&self.operation_shares)));
        }
        lines
    }
}
