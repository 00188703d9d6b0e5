//! `nearfield bench`.

mod batch;
mod edit;
mod limits;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use nearfield_engine::{
    Engine, EngineOptions, Generate, Sampling, SessionStats, Speculation, Step, peak_memory,
};
use nearfield_hub::Installed;
use nearfield_model::Model;
use serde_json::{Value, json};

use edit::{EditBench, EditReport};
use limits::Limits;

use super::options::{ConfigArgs, EngineArgs, SamplingArgs};
use crate::app::App;
use crate::output::Stdout;
use crate::signals::exit_when_stopped;

/// Tokens of the prompt unless said otherwise.
const PROMPT: usize = 512;
/// Tokens to generate unless said otherwise.
const GENERATE: u32 = 128;
/// Prompt and answer of the run that is not counted: it brings the weights into memory.
const WARM_UP: (usize, usize) = (64, 8);

/// Measure how fast a model reads a prompt and writes an answer on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchCommand {
    /// The model; pulled when it is not here
    #[arg(value_name = "MODEL")]
    model: String,

    /// Measure so many times, after one run that is not counted
    #[arg(long, value_name = "N", default_value = "5")]
    runs: NonZeroUsize,

    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = PROMPT, value_parser = parse_prompt)]
    prompt_tokens: usize,

    /// Measure an answer that repeats a file of code with a small change, with and without speculation
    #[arg(long, conflicts_with_all = ["prompt_tokens", "temperature", "top_p", "seed"])]
    edit: bool,

    /// So many requests at once; speeds are those of all together
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_batch, conflicts_with = "edit")]
    batch: usize,

    /// After each run measure what the machine could do: read as many bytes as decoding does, and multiply 8-bit integers
    #[arg(long, conflicts_with_all = ["edit", "batch"])]
    limits: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

const EXAMPLES: &str = "\
Examples:
  nearfield bench smollm2:135m
  nearfield bench smollm2:135m --threads 1 --kv q8 --runs 9 --json
  nearfield bench qwen2.5-coder:0.5b --edit
  nearfield bench gemma3:270m --batch 8 --prompt-tokens 128
  nearfield bench gemma3:270m --limits --runs 10

The prompt is random tokens, the answer --max-tokens (default 128) of them, one request at a time. Prefill is the \
time to the first token, decode what follows. The median counts; the spread is from the slowest to the fastest run. \
Tokens are guessed ahead with --edit only.";

fn parse_prompt(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=1 << 20).contains(number));
    number.ok_or_else(|| "expected a number from 1 to 1048576".to_owned())
}

fn parse_batch(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "expected a number from 1 to 256".to_owned())
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Tokens a second until the first token was there.
    prefill: f64,
    /// Tokens a second after that; none when only one token was asked for.
    decode: f64,
    first_token: Duration,
}

impl BenchCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let config = self.config.load()?;
        let hub = app.hub()?;
        let installed = app.model_here(&hub, &self.model).await?;
        exit_when_stopped();
        let generate = self.sampling.max_tokens.unwrap_or(GENERATE) as usize;
        let mut options = self.engine.options(&config.local);
        options.slots = self.batch;
        let model = Arc::new(Model::open(&installed.path)?);
        if self.edit {
            return self.run_edit(app, &installed, &model, &options);
        }
        // Answers to random tokens often go round in circles, which speculation would make look fast.
        options.speculation = Speculation::Off;
        options.context = options.context.or(Some(self.prompt_tokens + generate));
        let engine = Engine::start(Arc::clone(&model), &options)?;
        let bench = Bench { engine: &engine, command: &self, vocabulary: vocabulary(&model) };
        app.note(&format!("{}: {}", installed.name, engine.plan()));
        let (most_prompt, most_answer) = if self.limits { (usize::MAX, WARM_UP.1) } else { WARM_UP };
        bench.measure(0, most_prompt.min(self.prompt_tokens), most_answer.min(generate))?;
        // What the probe reads is not the engine's.
        let peak_before = self.limits.then(peak_memory);
        let mut limits = self.limits.then(|| Limits::new(&model, &engine, &options)).transpose()?;
        let mut runs = Vec::with_capacity(self.runs.get());
        for number in 1..=self.runs.get() {
            let run = bench.measure(number as u64, self.prompt_tokens, generate)?;
            app.note(&format!("run {number}: prefill {:.1}, decode {:.2} tok/s", run.prefill, run.decode));
            if let Some(limits) = &mut limits {
                limits.measure(run);
            }
            runs.push(run);
        }
        let peak = peak_before.unwrap_or_else(peak_memory);
        self.print(&installed.name, &engine, (&options, limits.as_ref()), (generate, peak), &runs)
    }

    fn run_edit(
        &self,
        app: &App,
        installed: &Installed,
        model: &Arc<Model>,
        options: &EngineOptions,
    ) -> Result<()> {
        let bench = EditBench::start(&installed.path, model, options, self.sampling.max_tokens)?;
        bench.measure()?;
        let (mut pairs, mut stats) = (Vec::with_capacity(self.runs.get()), SessionStats::default());
        for number in 1..=self.runs.get() {
            let (pair, last) = bench.measure()?;
            app.note(&format!("pair {number}: {pair}"));
            pairs.push(pair);
            stats = last;
        }
        let report = EditReport::new(&pairs, stats);
        let mut stdout = Stdout::new();
        if self.json {
            return stdout
                .json(&json!({ "model": installed.name, "runs": pairs.len(), "edit": report.json() }));
        }
        stdout.line(&format!("{}:", installed.name))?;
        report.lines().iter().try_for_each(|line| stdout.line(line))
    }

    fn print(
        &self,
        model: &str,
        engine: &Engine,
        (options, limits): (&EngineOptions, Option<&Limits>),
        (generate, peak): (usize, Option<u64>),
        runs: &[Run],
    ) -> Result<()> {
        let all = |of: fn(&Run) -> f64| Spread::new(runs.iter().map(of).collect());
        let (prefill, decode) = (all(|run| run.prefill), all(|run| run.decode));
        let first_token = all(|run| run.first_token.as_secs_f64() * 1e3);
        let threads = options
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get));
        let kernels = engine.kernels().name();
        let kv = engine.plan().key_value_type.name();
        let arithmetic = options.arithmetic.name();
        let mut stdout = Stdout::new();
        if self.json {
            return stdout.json(&json!({
                "model": model,
                "threads": threads,
                "kernels": kernels,
                "kv": kv,
                "arithmetic": arithmetic,
                "runs": runs.len(),
                "prefill": { "tokens": self.prompt_tokens, "tokens_per_second": prefill.json() },
                "decode": { "tokens": generate, "tokens_per_second": decode.json() },
                "ttft_ms": first_token.json(),
                "batch": self.batch,
                "limits": limits.map(Limits::json),
                "plan_bytes": engine.plan().total_bytes(),
                "peak_bytes": peak,
                "weights": engine.plan().weights.name(),
            }));
        }
        stdout.line(&format!("{model}: {threads} threads, {kernels}, kv {kv}, {arithmetic} arithmetic"))?;
        stdout.line(&format!("prefill {:>5} tokens  {}", self.prompt_tokens, prefill.text(1)))?;
        stdout.line(&format!("decode  {generate:>5} tokens  {}", decode.text(2)))?;
        limits.map_or_else(Vec::new, Limits::lines).iter().try_for_each(|line| stdout.line(line))
    }
}

fn vocabulary(model: &Model) -> u64 {
    (model.architecture().vocabulary_size as u64).max(1)
}

/// The engine and what it is asked.
struct Bench<'a> {
    engine: &'a Engine,
    command: &'a BenchCommand,
    vocabulary: u64,
}

impl Bench<'_> {
    /// Runs one request, or as many at once as were asked for.
    fn measure(&self, number: u64, prompt: usize, generate: usize) -> Result<Run> {
        let batch = self.command.batch as u64;
        if batch > 1 {
            let requests = (0..batch).map(|which| self.request(number * batch + which, prompt, generate));
            return batch::measure(self.engine, requests.collect());
        }
        let mut session = self.engine.submit(self.request(number, prompt, generate))?;
        let mut stats = SessionStats::default();
        while let Some(step) = session.next_blocking() {
            if let Step::Done { stats: done } = step? {
                stats = done;
            }
        }
        let decoded = stats.generated_tokens.saturating_sub(1);
        Ok(Run {
            prefill: rate(stats.prompt_tokens, stats.prefill),
            decode: if decoded == 0 { 0.0 } else { rate(decoded, stats.decode) },
            first_token: stats.prefill,
        })
    }

    /// A request of random tokens; no two prompts share a beginning, so that nothing can be reused.
    fn request(&self, number: u64, prompt: usize, generate: usize) -> Generate {
        let seed = self.command.sampling.seed.unwrap_or(0);
        let mut state = seed.wrapping_mul(1 << 20).wrapping_add(number);
        Generate {
            tokens: (0..prompt).map(|_| (split_mix(&mut state) % self.vocabulary) as u32).collect(),
            max_tokens: Some(generate),
            sampling: Sampling {
                temperature: self.command.sampling.temperature.unwrap_or(0.0),
                top_p: self.command.sampling.top_p.unwrap_or(1.0),
                seed: Some(seed),
                ..Sampling::default()
            },
            ..Generate::default()
        }
    }
}

/// Tokens a second.
fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// The next number of a fixed sequence (SplitMix64), the same on every machine.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Several measurements of the same thing.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), least: at(0), most: at(last) }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.least, "max": self.most })
    }

    fn text(self, decimals: usize) -> String {
        format!("{:>8.decimals$} tok/s  ({:.decimals$} to {:.decimals$})", self.median, self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        let spread = |values: &[f64]| Spread::new(values.to_vec());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(spread(&[7.0]), Spread { median: 7.0, least: 7.0, most: 7.0 });
    }

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut state = 0;
        assert_eq!(split_mix(&mut state), 0xe220_a839_7b1d_cdaf);
        assert_eq!(split_mix(&mut state), 0x6e78_9e6a_a1b9_65f4);
    }
}
