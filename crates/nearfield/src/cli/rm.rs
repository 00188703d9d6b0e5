//! `nearfield rm`.

use anyhow::Result;
use clap::Args;
use nearfield_hub::format_bytes;
use serde_json::json;

use crate::app::App;
use crate::output::Stdout;

/// Remove a model from this machine, with what interrupted pulls left of it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RmCommand {
    /// A catalogue name, or the reference that the model was pulled by
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,

    /// Print one JSON object for each model
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  nearfield rm smollm2:135m";

impl RmCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let hub = app.hub()?;
        let mut stdout = Stdout::new();
        for model in &self.models {
            let bytes = hub.remove(model)?;
            if self.json {
                stdout.json_line(&json!({ "model": model, "bytes": bytes }))?;
            } else {
                stdout.line(&format!("removed {model}: {} are free again", format_bytes(bytes)))?;
            }
        }
        Ok(())
    }
}
