//! `nearfield eval`.

mod kld;
mod perplexity;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use nearfield_engine::{Engine, EngineOptions, Runner, RunnerOptions};
use nearfield_model::tokenizer::Special;
use nearfield_model::{Model, Text};
use nearfield_quantize::PerplexityOptions;

use super::options::{ConfigArgs, EngineArgs, SamplingArgs};
use crate::app::App;
use crate::signals::exit_when_stopped;

/// Tokens of a window: published figures are for this.
const WINDOW: usize = 512;

/// Measure how good a model is, as it is stored and computed here
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalCommand {
    #[command(subcommand)]
    measure: Measure,
}

const EXAMPLES: &str = "\
Examples:
  nearfield eval perplexity smollm2:135m --text wiki.test.raw --windows 32
  nearfield eval kld smollm2:135m --text wiki.test.raw --windows 32";

#[derive(Debug, Subcommand)]
enum Measure {
    Perplexity(perplexity::PerplexityCommand),
    Kld(kld::KldCommand),
}

impl EvalCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self.measure {
            Measure::Perplexity(command) => command.run(app).await,
            Measure::Kld(command) => command.run(app).await,
        }
    }
}

/// What all measures are told.
#[derive(Debug, Args)]
struct MeasureArgs {
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

/// A model and the tokens that it is measured with.
struct Subject {
    name: String,
    model: Model,
    tokens: Vec<u32>,
    options: PerplexityOptions,
    engine: EngineOptions,
}

impl MeasureArgs {
    /// Reads text and model; `measure` names what is measured.
    async fn subject(&self, app: &App, measure: &str) -> Result<Subject> {
        let config = self.config.load()?;
        let ignored = self.sampling.given();
        if !ignored.is_empty() {
            app.note(&format!("{} changes nothing here: {measure} does not sample", ignored.join(", ")));
        }
        let content = read_text(&self.text)?;
        let hub = app.hub()?;
        let installed = app.model_here(&hub, &self.model).await?;
        exit_when_stopped();
        let text = Text::open(&installed.path)?;
        let tokens = tokens_of(&text, &content)?;
        let model = Model::open(&installed.path)?;
        let mut engine = self.engine.options(&config.local);
        engine.slots = 1;
        engine.context = engine.context.or(Some(WINDOW));
        let options = PerplexityOptions {
            window: WINDOW,
            windows: self.windows.map(NonZeroUsize::get),
            beginning: text.tokenizer().bos_to_add(),
        };
        Ok(Subject { name: installed.name, model, tokens, options, engine })
    }
}

impl Subject {
    /// A runner over the model with these options.
    fn runner(&self, options: &EngineOptions) -> Result<Runner<'_>> {
        let plan = Engine::plan_for(&self.model, options)?;
        let runner_options = RunnerOptions {
            threads: options.thread_count(),
            key_value_type: plan.key_value_type,
            arithmetic: options.arithmetic,
            kernels: options.kernels,
            cache_positions: plan.cache_positions,
        };
        Ok(Runner::new(&self.model, &runner_options)?)
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

    fn update(&self, done: usize, windows: usize, figure: f64) -> bool {
        if self.0 {
            // Whether anybody sees this changes nothing.
            let _ = write!(io::stderr(), "\r\x1b[Kwindow {done} of {windows}: {figure:.4}");
        }
        true
    }

    fn clear(&self) {
        if self.0 {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
