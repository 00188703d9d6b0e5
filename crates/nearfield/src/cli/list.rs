//! `nearfield list`.

use anyhow::Result;
use clap::Args;
use nearfield_hub::{CatalogueEntry, Hub, Inventory, format_bytes};
use serde_json::{Value, json};

use crate::app::App;
use crate::output::{Align, Stdout, Table, stderr_line};

/// List the models on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListCommand {
    /// Show the whole catalogue too: what can be pulled by a short name
    #[arg(long)]
    all: bool,

    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  nearfield list
  nearfield list --all";

impl ListCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let hub = app.hub()?;
        let inventory = hub.list()?;
        let mut stdout = Stdout::new();
        if self.json {
            stdout.json(&self.rows(&hub, &inventory))?;
        } else if inventory.installed.is_empty() && !self.all {
            app.note("no model is here yet; `nearfield list --all` shows what can be pulled by name");
        } else {
            for line in self.table(&hub, &inventory).lines() {
                stdout.line(&line)?;
            }
        }
        report_incomplete(app, &inventory);
        Ok(())
    }

    fn table(&self, hub: &Hub, inventory: &Inventory) -> Table {
        let columns = [("NAME", Align::Left), ("SIZE", Align::Right), ("LICENCE", Align::Left)];
        let last = if self.all { ("HERE", Align::Left) } else { ("SOURCE", Align::Left) };
        let mut table = Table::new(&[columns.as_slice(), &[last]].concat());
        for model in &inventory.installed {
            let manifest = model.manifest.as_ref();
            let license = manifest.and_then(|manifest| manifest.license.as_ref());
            let source = manifest.map(|manifest| manifest.source.clone());
            table.row([
                model.name.clone(),
                format_bytes(model.bytes),
                license.map_or_else(|| "-".to_owned(), |license| license.name.clone()),
                if self.all { "yes".to_owned() } else { source.unwrap_or_default() },
            ]);
        }
        for entry in self.elsewhere(hub, inventory) {
            let about = if entry.approximate { "~" } else { "" };
            let size = format!("{about}{}", format_bytes(entry.bytes));
            table.row([entry.name.clone(), size, entry.license.name.clone(), "-".to_owned()]);
        }
        table
    }

    fn rows(&self, hub: &Hub, inventory: &Inventory) -> Vec<Value> {
        let here = inventory.installed.iter().map(|model| {
            let manifest = model.manifest.as_ref();
            json!({
                "name": model.name,
                "installed": true,
                "bytes": model.bytes,
                "path": model.path.display().to_string(),
                "source": manifest.map(|manifest| &manifest.source),
                "license": manifest.and_then(|manifest| manifest.license.as_ref()).map(|license| &license.name),
                "pulled_at": manifest.map(|manifest| manifest.pulled_at),
            })
        });
        let elsewhere = self.elsewhere(hub, inventory).map(|entry| {
            json!({
                "name": entry.name,
                "installed": false,
                "bytes": entry.bytes,
                "license": entry.license.name,
            })
        });
        here.chain(elsewhere).collect()
    }

    /// Catalogue entries that are not here, if they are wanted.
    fn elsewhere<'a>(
        &self,
        hub: &'a Hub,
        inventory: &'a Inventory,
    ) -> impl Iterator<Item = &'a CatalogueEntry> {
        let all = self.all;
        hub.catalogue()
            .entries()
            .iter()
            .filter(move |entry| all && inventory.installed.iter().all(|model| model.name != entry.name))
    }
}

/// What takes room without being of use is said, not hidden.
fn report_incomplete(app: &App, inventory: &Inventory) {
    for partial in &inventory.partial {
        let name = partial.folder.file_name().unwrap_or_default().display().to_string();
        let bytes = format_bytes(partial.bytes);
        app.note(&format!("{name}: an interrupted pull left {bytes}; pull the model again to complete it"));
    }
    for (folder, reason) in &inventory.damaged {
        stderr_line(&format!("warning: {} cannot be used: {reason}", folder.display()));
    }
}
