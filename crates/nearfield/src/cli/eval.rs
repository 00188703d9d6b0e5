//! `nearfield eval`.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use nearfield_engine::{Engine, Runner, RunnerOptions};
use nearfield_model::tokenizer::Special;
use nearfield_model::{Model, Text};
use nearfield_quantize::{Perplexity, PerplexityOptions, Progress, perplexity};
use serde_json::json;

use super::options::{ConfigArgs, EngineArgs, SamplingArgs};
use crate::app::App;
use crate::output::Stdout;
use crate::signals::exit_when_stopped;

/// Tokens of a window: published figures are for this.
const WINDOW: usize = 512;

/// Measure how good a model is, as it is stored and computed here
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  nearfield eval perplexity smollm2:135m --text wiki.test.raw --windows 32"
)]
pub(crate) struct EvalCommand {
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Measure {
    Perplexity(PerplexityCommand),
}

/// Measure how well a model predicts a text; lower is better
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct PerplexityCommand {
    /// The model; pulled when it is not here
    #[arg(value_name = "MODEL")]
    model: String,

    /// The text, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Windows to take from the start of the text [default: all]
    #[arg(long, value_name = "N")]
    windows: Option<NonZeroUsize>,

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
  nearfield eval perplexity smollm2:135m --text wiki.test.raw
  nearfield eval perplexity smollm2:135m --text wiki.test.raw --windows 32 --arithmetic exact --json

The text is cut into windows of 512 tokens that do not overlap; of each the second half is scored. Figures compare \
with those of llama.cpp for the same text and windows. Nothing is sampled: --temperature, --top-p, --seed and \
--max-tokens are accepted and change nothing.";

impl EvalCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self.measure {
            Measure::Perplexity(command) => command.run(app).await,
        }
    }
}

impl PerplexityCommand {
    async fn run(self, app: &App) -> Result<()> {
        let config = self.config.load()?;
        let ignored = self.sampling.given();
        if !ignored.is_empty() {
            app.note(&format!("{} changes nothing here: perplexity does not sample", ignored.join(", ")));
        }
        let content = read_text(&self.text)?;
        let hub = app.hub()?;
        let installed = app.model_here(&hub, &self.model).await?;
        exit_when_stopped();
        let text = Text::open(&installed.path)?;
        let tokens = tokens_of(&text, &content)?;
        let model = Model::open(&installed.path)?;

        let mut options = self.engine.options(&config.local);
        options.slots = 1;
        options.context = options.context.or(Some(WINDOW));
        let plan = Engine::plan_for(&model, &options)?;
        let threads = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let runner_options = RunnerOptions {
            threads: options.threads.unwrap_or_else(threads),
            key_value_type: options.key_value_type,
            arithmetic: options.arithmetic,
            kernels: options.kernels,
            cache_positions: plan.cache_positions,
        };
        let mut runner = Runner::new(&model, &runner_options)?;
        let measure = PerplexityOptions {
            window: WINDOW,
            windows: self.windows.map(NonZeroUsize::get),
            beginning: text.tokenizer().bos_to_add(),
        };
        let shown = Shown::new(app.is_quiet());
        let result = perplexity(&mut runner, &tokens, &measure, |progress| shown.update(progress));
        shown.clear();
        self.print(&installed.name, &result?, tokens.len())
    }

    fn print(&self, model: &str, result: &Perplexity, tokens: usize) -> Result<()> {
        let mut stdout = Stdout::new();
        if self.json {
            return stdout.json(&json!({
                "model": model,
                "ppl": result.perplexity,
                "standard_error": result.standard_error,
                "windows": result.windows,
                "window": WINDOW,
                "tokens": tokens,
                "scored_tokens": result.scored,
            }));
        }
        stdout.line(&format!(
            "perplexity {:.4} ± {:.4} ({} windows of {WINDOW}, {} tokens scored)",
            result.perplexity, result.standard_error, result.windows, result.scored
        ))
    }
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{} is not a text in UTF-8", path.display()))
}

/// The whole text at once, with the beginning-of-text token where the vocabulary asks for one, as the protocol has it.
fn tokens_of(text: &Text, content: &str) -> Result<Vec<u32>> {
    let tokenizer = text.tokenizer();
    let mut tokens: Vec<u32> = tokenizer.bos_to_add().into_iter().collect();
    tokens.extend(tokenizer.encode(content, Special::AsText).exact()?);
    Ok(tokens)
}

/// A line on a terminal that is overwritten after each window.
struct Shown(bool);

impl Shown {
    fn new(quiet: bool) -> Self {
        Self(!quiet && io::stderr().is_terminal())
    }

    fn update(&self, progress: Progress) -> bool {
        if self.0 {
            let Progress { done, windows, perplexity } = progress;
            // Whether anybody sees this changes nothing.
            let _ = write!(io::stderr(), "\r\x1b[Kwindow {done} of {windows}: {perplexity:.4}");
        }
        true
    }

    fn clear(&self) {
        if self.0 {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
