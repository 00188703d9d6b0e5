//! `nearfield eval kld`.

use anyhow::{Result, bail};
use clap::Args;
use nearfield_engine::{Arithmetic, EngineOptions, KeyValueType};
use nearfield_quantize::{Divergence, divergence};
use serde_json::json;

use super::{MeasureArgs, Shown, Subject, WINDOW};
use crate::app::App;
use crate::output::Stdout;

/// Measure how far a way of computing a model is from the exact one
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct KldCommand {
    #[command(flatten)]
    args: MeasureArgs,
}

const EXAMPLES: &str = "\
Examples:
  nearfield eval kld smollm2:135m --text wiki.test.raw --windows 32
  nearfield eval kld smollm2:135m --text wiki.test.raw --windows 32 --kv q8 --json

The reference is exact arithmetic with keys and values in 32 bits, compared is what the flags say. Both read the same \
windows side by side, those of `nearfield eval perplexity`. The Kullback-Leibler divergence of their predictions, in \
nats, is 0 where they are the same. Nothing is sampled: --temperature, --top-p, --seed and --max-tokens are accepted \
and change nothing.";

impl KldCommand {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let subject = self.args.subject(app, "a divergence").await?;
        let reference = EngineOptions {
            arithmetic: Arithmetic::Exact,
            key_value_type: Some(KeyValueType::F32),
            ..subject.engine.clone()
        };
        if reference == subject.engine {
            bail!("--arithmetic exact --kv f32 is the reference itself: leave one of them out");
        }
        let mut teacher = subject.runner(&reference)?;
        let mut student = subject.runner(&subject.engine)?;
        let shown = Shown::new(app.is_quiet());
        let result = divergence(&mut teacher, &mut student, &subject.tokens, &subject.options, |progress| {
            shown.update(progress.done, progress.windows, progress.mean)
        });
        shown.clear();
        self.print(&subject, &result?)
    }

    fn print(&self, subject: &Subject, result: &Divergence) -> Result<()> {
        let mut stdout = Stdout::new();
        let (arithmetic, kv) = (
            subject.engine.arithmetic.name(),
            subject.engine.cache_type(subject.model.architecture()).name(),
        );
        let change = 100.0 * (result.student_perplexity / result.teacher_perplexity - 1.0);
        let change_error = 100.0 * result.log_ratio_error;
        if self.args.json {
            return stdout.json(&json!({
                "model": subject.name,
                "arithmetic": arithmetic,
                "kv": kv,
                "mean": result.mean,
                "standard_error": result.standard_error,
                "median": result.median,
                "percentile_90": result.percentile_90,
                "percentile_99": result.percentile_99,
                "largest": result.largest,
                "same_choice": result.same_choice,
                "ppl": result.student_perplexity,
                "ppl_reference": result.teacher_perplexity,
                "ppl_change_percent": change,
                "ppl_change_percent_error": change_error,
                "windows": result.windows,
                "window": WINDOW,
                "scored_tokens": result.scored,
            }));
        }
        stdout.line(&format!("{}: {arithmetic} arithmetic, kv {kv}, against exact, kv f32", subject.name))?;
        stdout.line(&format!("divergence {:.6} ± {:.6} nats a token", result.mean, result.standard_error))?;
        stdout.line(&format!(
            "  median {:.6}, 90% {:.6}, 99% {:.6}, largest {:.6}",
            result.median, result.percentile_90, result.percentile_99, result.largest
        ))?;
        stdout.line(&format!("same first choice {:.2}%", 100.0 * result.same_choice))?;
        stdout.line(&format!(
            "perplexity {:.4} against {:.4}: {change:+.3}% ± {change_error:.3}% ({} windows of {WINDOW}, {} tokens scored)",
            result.student_perplexity, result.teacher_perplexity, result.windows, result.scored
        ))
    }
}
