//! `nearfield keys`.

use anyhow::Result;
use clap::{Args, Subcommand};
use nearfield_server::keys::KeyRecord;
use serde_json::json;

use crate::app::App;
use crate::output::{Align, Stdout, Table};

/// Make, list and revoke the API keys of `nearfield serve`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct KeysCommand {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  nearfield keys add laptop
  nearfield keys list
  nearfield keys revoke laptop

Only hashes of keys are stored. A running server notices changes with its next request. NEARFIELD_API_KEY, where \
it is set, is a further key and takes the place of the generated one.";

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it; it is shown this once and kept nowhere
    #[command(after_help = "Example:\n  nearfield keys add laptop")]
    Add {
        /// What to call it: letters, digits, '.', '_' and '-'
        name: String,
        /// Print a JSON object with the key and its record
        #[arg(long)]
        json: bool,
    },
    /// List the keys, without the keys themselves
    #[command(after_help = "Example:\n  nearfield keys list --json")]
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key: servers refuse it from their next request on
    #[command(after_help = "Example:\n  nearfield keys revoke laptop")]
    Revoke {
        /// The id or the name of an active key
        #[arg(value_name = "ID|NAME")]
        key: String,
        /// Print the key's record as a JSON object
        #[arg(long)]
        json: bool,
    },
}

impl KeysCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let keys = app.keys()?;
        let mut stdout = Stdout::new();
        match self.action {
            Action::Add { name, json } => {
                let key = keys.add(&name)?;
                if json {
                    return stdout.json(&json!({ "key": key.plaintext, "record": key.record }));
                }
                app.note(&format!("{}: this is the only time that the key is shown", key.record.id));
                stdout.line(&key.plaintext)
            }
            Action::List { json: true } => stdout.json(&keys.list()?),
            Action::List { json: false } => list(app, &keys.list()?, &mut stdout),
            Action::Revoke { key, json } => {
                let record = keys.revoke(&key)?;
                if json {
                    return stdout.json(&record);
                }
                stdout.line(&format!("revoked {} ({})", record.name, record.id))
            }
        }
    }
}

fn list(app: &App, records: &[KeyRecord], stdout: &mut Stdout) -> Result<()> {
    if records.is_empty() {
        app.note("there are no keys yet; `nearfield keys add NAME` makes one, `nearfield serve` its own");
        return Ok(());
    }
    let columns = [("ID", Align::Left), ("NAME", Align::Left), ("MADE", Align::Left), ("STATE", Align::Left)];
    let mut table = Table::new(&columns);
    for record in records {
        let state = match (record.revoked, record.generated) {
            (Some(at), _) => format!("revoked {at:.0}"),
            (None, true) => "active, made by the server".to_owned(),
            (None, false) => "active".to_owned(),
        };
        table.row([record.id.clone(), record.name.clone(), format!("{:.0}", record.created), state]);
    }
    table.lines().iter().try_for_each(|line| stdout.line(line))
}
