//! `nearfield policy`.

mod explain;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use nearfield_router::rules::{ExampleOutcome, Examples, Severity, check_examples};
use serde_json::json;

use super::options::ConfigArgs;
use crate::app::App;
use crate::config::RulesFile;
use crate::failure::UsageError;
use crate::output::Stdout;
use crate::reload;

/// The largest file of examples that is read.
const MAX_EXAMPLES: u64 = 1 << 20;

/// Check, explain and test the policy file, or have a server read it again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nearfield policy check\n  nearfield policy test examples.toml")]
pub(crate) struct PolicyCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Check(CheckCommand),
    Explain(Box<explain::ExplainCommand>),
    Test(TestCommand),
    Reload(ReloadCommand),
}

/// Check the policy file against the configuration, and say where it trusts detection too far
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nearfield policy check --config nearfield.toml")]
struct CheckCommand {
    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Decide the examples of a file and compare with what they expect
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nearfield policy test examples.toml")]
struct TestCommand {
    /// The examples, TOML
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Have the server of this data folder read its policy file again, as SIGHUP does
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nearfield policy reload")]
struct ReloadCommand {
    #[command(flatten)]
    config: ConfigArgs,
}

impl PolicyCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let mut stdout = Stdout::new();
        match self.action {
            Action::Check(command) => check(&rules(&command.config)?, command.json, &mut stdout),
            Action::Explain(command) => Box::pin(command.run(app, &mut stdout)).await,
            Action::Test(command) => command.run(&mut stdout),
            Action::Reload(command) => command.run(app, &mut stdout),
        }
    }
}

impl ReloadCommand {
    fn run(self, app: &App, stdout: &mut Stdout) -> Result<()> {
        // A file that cannot be used is said here, where somebody reads it.
        let config = self.config.load()?;
        let pools = config.backends.iter().any(|backend| !backend.pool_endpoints().is_empty());
        let Some(file) = config.rules else {
            if !pools {
                return Err(no_file());
            }
            reload::ask(app.data_folder())?;
            return stdout.line("a running server reads the weights and drains of its pools within a second");
        };
        reload::ask(app.data_folder())?;
        stdout.line(&format!(
            "a running server reads {} within a second (hash {})",
            file.path().display(),
            file.rules.hash()
        ))
    }
}

fn rules(config: &ConfigArgs) -> Result<RulesFile> {
    config.load()?.rules.ok_or_else(no_file)
}

fn no_file() -> anyhow::Error {
    let problem = "the configuration names no policy file; write file = \"policy.toml\" under [policy]";
    UsageError(problem.to_owned()).into()
}

fn check(file: &RulesFile, json: bool, stdout: &mut Stdout) -> Result<()> {
    let warnings = file.warnings();
    if json {
        let list: Vec<_> = warnings
            .iter()
            .map(|finding| json!({ "place": finding.place, "warning": finding.said }))
            .collect();
        return stdout
            .json(&json!({ "hash": file.rules.hash(), "rules": file.rules.rule.len(), "warnings": list }));
    }
    for finding in warnings.iter().filter(|finding| finding.severity == Severity::Warning) {
        stdout.line(&format!("warning: {}: {}", finding.place, finding.said))?;
    }
    stdout.line(&format!(
        "{}: {} rules, hash {}, {} warnings",
        file.path().display(),
        file.rules.rule.len(),
        file.rules.hash(),
        warnings.len()
    ))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl TestCommand {
    fn run(self, stdout: &mut Stdout) -> Result<()> {
        let file = rules(&self.config)?;
        let size =
            fs::metadata(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?.len();
        if size > MAX_EXAMPLES {
            bail!("{} is larger than {MAX_EXAMPLES} bytes", self.file.display());
        }
        let text =
            fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let examples: Examples = toml::from_str(&text).map_err(|error| {
            UsageError(format!("{} is not a file of examples: {}", self.file.display(), error.message()))
        })?;
        let outcomes = check_examples(&file.rules, file.backends(), &examples)?;
        let failed = outcomes.iter().filter(|outcome| !outcome.differences.is_empty()).count();
        if self.json {
            let list: Vec<_> = outcomes
                .iter()
                .map(|outcome| {
                    json!({
                        "name": outcome.name, "candidates": outcome.verdict.candidates,
                        "rule": outcome.verdict.rule, "differences": outcome.differences,
                        "warnings": outcome.warnings,
                    })
                })
                .collect();
            stdout.json(&json!({ "examples": list, "failed": failed }))?;
        } else {
            outcomes.iter().try_for_each(|outcome| show(outcome, stdout))?;
        }
        if failed > 0 {
            bail!("{failed} of {} examples came out differently", outcomes.len());
        }
        if self.json {
            Ok(())
        } else {
            stdout.line(&format!("{} examples came out as expected", outcomes.len()))
        }
    }
}

/// One example's lines.
fn show(outcome: &ExampleOutcome, stdout: &mut Stdout) -> Result<()> {
    let state = if outcome.differences.is_empty() { "ok" } else { "DIFFERS" };
    stdout.line(&format!("{state}: {}", outcome.name))?;
    for difference in &outcome.differences {
        stdout.line(&format!("  {difference}"))?;
    }
    outcome.warnings.iter().try_for_each(|warning| stdout.line(&format!("  warning: {warning}")))
}
