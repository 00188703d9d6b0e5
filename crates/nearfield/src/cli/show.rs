//! `nearfield show`.

use anyhow::Result;
use clap::Args;
use nearfield_hub::{CatalogueEntry, Description, HubError, Installed, format_bytes};
use serde_json::{Value, json};

use crate::app::App;
use crate::output::Stdout;

/// Show what is known about a model: size, licence, sources, files
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ShowCommand {
    /// A catalogue name, a reference it was pulled by, or a path
    #[arg(value_name = "MODEL")]
    model: String,

    /// Read all files of the model again and compare their SHA-256
    #[arg(long)]
    verify: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  nearfield show smollm2:135m
  nearfield show smollm2:135m --verify";

impl ShowCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let hub = app.hub()?;
        let description = hub.show(&self.model)?;
        if description.installed.is_none() && (self.verify || description.entry.is_none()) {
            return Err(HubError::NotInstalled { name: description.reference }.into());
        }
        if self.verify {
            hub.verify(&self.model)?;
        }
        let mut stdout = Stdout::new();
        if self.json {
            return stdout.json(&object(&description, self.verify));
        }
        for (label, value) in lines(&description, self.verify) {
            stdout.line(&format!("{label:<13} {value}"))?;
        }
        Ok(())
    }
}

fn lines(description: &Description, verified: bool) -> Vec<(&'static str, String)> {
    let mut lines = vec![("name", description.reference.clone())];
    if let Some(entry) = &description.entry {
        lines.extend(entry_lines(entry));
    }
    match &description.installed {
        Some(installed) => lines.extend(installed_lines(installed, verified)),
        None => lines.push(("here", format!("no; `nearfield pull {}` gets it", description.reference))),
    }
    lines
}

fn entry_lines(entry: &CatalogueEntry) -> Vec<(&'static str, String)> {
    let about = if entry.approximate { "about " } else { "" };
    let chat = if entry.chat { "yes" } else { "no: a base model; `run` continues text" };
    let mut license = entry.license.name.clone();
    if let Some(url) = &entry.license.url {
        license = format!("{license} ({url})");
    }
    let mut lines = vec![
        ("title", entry.title.clone()),
        ("architecture", entry.architecture.clone()),
        ("parameters", millions(entry.parameters)),
        ("weights", entry.quantization.clone()),
        ("context", format!("{} tokens", entry.context)),
        ("chat", chat.to_owned()),
        ("licence", license),
        ("size", format!("{about}{}", format_bytes(entry.bytes))),
    ];
    lines.extend(entry.sha256.map(|digest| ("sha256", digest.to_string())));
    lines.extend(entry.sources.iter().map(|source| ("source", source.clone())));
    lines
}

fn installed_lines(installed: &Installed, verified: bool) -> Vec<(&'static str, String)> {
    let mut lines =
        vec![("here", installed.path.display().to_string()), ("size on disk", format_bytes(installed.bytes))];
    if let Some(manifest) = &installed.manifest {
        let revision = manifest.revision.as_ref().map_or_else(String::new, |text| format!(" at {text}"));
        lines.push(("pulled", format!("{} from {}{revision}", manifest.pulled_at, manifest.source)));
        lines.push(("files", manifest.files.len().to_string()));
        if verified {
            lines.push(("verified", "all files have the SHA-256 that was recorded".to_owned()));
        }
    } else if verified {
        lines.push((
            "verified",
            "no: this file was not pulled, so there is nothing to compare with".to_owned(),
        ));
    }
    lines
}

fn object(description: &Description, verified: bool) -> Value {
    let installed = description.installed.as_ref().map(|installed| {
        json!({
            "path": installed.path.display().to_string(),
            "bytes": installed.bytes,
            "verified": verified && installed.manifest.is_some(),
            "manifest": installed.manifest,
        })
    });
    json!({ "name": description.reference, "catalogue": description.entry, "installed": installed })
}

/// `135 million`, `7.6 billion`.
fn millions(count: u64) -> String {
    let (value, unit) = if count >= 1_000_000_000 {
        (count as f64 / 1e9, "billion")
    } else {
        (count as f64 / 1e6, "million")
    };
    if value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_rounded() {
        assert_eq!(millions(134_515_008), "135 million");
        assert_eq!(millions(7_615_616_512), "7.6 billion");
        assert_eq!(millions(26_000_000), "26.0 million");
    }
}
