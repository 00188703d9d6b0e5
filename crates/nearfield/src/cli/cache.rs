//! `nearfield cache`: the files that keep beginnings of requests over restarts.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use nearfield_engine::{PrefixFile, prefix_file_is_whole, prefix_files};
use nearfield_hub::format_bytes;
use serde_json::json;

use crate::app::App;
use crate::output::{Align, Stdout, Table};

/// List, check or remove the files that keep beginnings of requests over restarts (`prefix_cache_files`)
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CacheCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the files, the one that was used longest ago first
    #[command(after_help = "Example:\n  nearfield cache list")]
    List(OutputArgs),
    /// Read every file and say whether it holds what was written; a damaged one is never used
    #[command(after_help = "Example:\n  nearfield cache verify")]
    Verify(OutputArgs),
    /// Remove all files
    #[command(after_help = "Example:\n  nearfield cache clear")]
    Clear(OutputArgs),
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  nearfield cache list
  nearfield cache clear

The files hold the tokens of prompts and answers and what the model made of them. They are written only where the \
configuration has `prefix_cache_files`, for the user of this process alone, and are found again only by the same key.";

impl CacheCommand {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let files = prefix_files(&app.prefix_folder())?;
        match self.action {
            Action::List(output) => list(app, &files, output.json),
            Action::Verify(output) => verify(app, &files, output.json),
            Action::Clear(output) => clear(app, &files, output.json),
        }
    }
}

fn name(file: &PrefixFile) -> String {
    file.path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn used(file: &PrefixFile) -> String {
    jiff::Timestamp::try_from(file.used).map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}

fn list(app: &App, files: &[PrefixFile], as_json: bool) -> Result<()> {
    let mut stdout = Stdout::new();
    if as_json {
        let rows =
            files.iter().map(|file| json!({ "name": name(file), "bytes": file.bytes, "used": used(file) }));
        return stdout.json(&rows.collect::<Vec<_>>());
    }
    if files.is_empty() {
        app.note("there are no files; they are written where the configuration has `prefix_cache_files`");
        return Ok(());
    }
    let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("USED", Align::Left)]);
    for file in files {
        table.row([name(file), format_bytes(file.bytes), used(file)]);
    }
    table.lines().iter().try_for_each(|line| stdout.line(line))
}

fn verify(app: &App, files: &[PrefixFile], as_json: bool) -> Result<()> {
    let mut damaged = Vec::new();
    for file in files {
        if !prefix_file_is_whole(&file.path)? {
            damaged.push(name(file));
        }
    }
    if as_json {
        Stdout::new().json(&json!({ "files": files.len(), "damaged": damaged }))?;
    } else if damaged.is_empty() {
        app.note(&format!("{} files, all of them whole", files.len()));
    }
    if !damaged.is_empty() {
        bail!("{} of {} files are damaged: {}", damaged.len(), files.len(), damaged.join(", "));
    }
    Ok(())
}

fn clear(app: &App, files: &[PrefixFile], as_json: bool) -> Result<()> {
    for file in files {
        std::fs::remove_file(&file.path)?;
    }
    let bytes = files.iter().map(|file| file.bytes).sum();
    if as_json {
        return Stdout::new().json(&json!({ "files": files.len(), "bytes": bytes }));
    }
    app.note(&format!("removed {} files: {} are free again", files.len(), format_bytes(bytes)));
    Ok(())
}
