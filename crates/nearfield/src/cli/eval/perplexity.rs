//! `nearfield eval perplexity`.

use anyhow::Result;
use clap::Args;
use nearfield_quantize::{Perplexity, perplexity};
use serde_json::json;

use super::{MeasureArgs, Shown, WINDOW};
use crate::app::App;
use crate::output::Stdout;

/// Measure how well a model predicts a text; lower is better
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PerplexityCommand {
    #[command(flatten)]
    args: MeasureArgs,
}

const EXAMPLES: &str = "\
Examples:
  nearfield eval perplexity smollm2:135m --text wiki.test.raw
  nearfield eval perplexity smollm2:135m --text wiki.test.raw --windows 32 --arithmetic exact --json

The text is cut into windows of 512 tokens that do not overlap; of each the second half is scored. Figures compare \
with those of llama.cpp for the same text and windows. Nothing is sampled: --temperature, --top-p, --seed and \
--max-tokens are accepted and change nothing.";

impl PerplexityCommand {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let subject = self.args.subject(app, "perplexity").await?;
        let mut runner = subject.runner(&subject.engine)?;
        let shown = Shown::new(app.is_quiet());
        let result = perplexity(&mut runner, &subject.tokens, &subject.options, |progress| {
            shown.update(progress.done, progress.windows, progress.perplexity)
        });
        shown.clear();
        self.print(&subject.name, &result?, subject.tokens.len())
    }

    fn print(&self, model: &str, result: &Perplexity, tokens: usize) -> Result<()> {
        let mut stdout = Stdout::new();
        if self.args.json {
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
