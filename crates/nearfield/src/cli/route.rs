//! `nearfield route`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use nearfield_router::route::{Evaluation, Question, evaluate};
use serde_json::json;

use crate::app::App;
use crate::output::{Align, Stdout, Table};

/// The largest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Measure routing by how hard a prompt looks
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nearfield route eval --data shared/data/routellm")]
pub(crate) struct RouteCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Eval(EvalCommand),
}

/// Judge routers on questions whose answers by a weak and a strong model are known: GSM8K by question, MMLU by subject
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
struct EvalCommand {
    /// The folder with `gsm8k` and `mmlu` in RouteLLM's layout
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example:
  nearfield route eval --data shared/data/routellm

PGR is the part of the strong model's lead that a router keeps; CPT(x) the least share of strong calls that keeps x of \
it; APGR the area of PGR over the share. Five folds; scores and thresholds are fitted on the other four. The subject \
prior is fitted on other questions of the same subjects, also for MMLU.";

impl RouteCommand {
    pub(crate) fn run(self, _app: &App) -> Result<()> {
        let Action::Eval(command) = self.action;
        command.run()
    }
}

impl EvalCommand {
    fn run(&self) -> Result<()> {
        let mut stdout = Stdout::new();
        let sets = [("gsm8k", false), ("mmlu", true)];
        let mut reports = Vec::new();
        let mut wins = true;
        for (name, by_subject) in sets {
            let result = evaluate(&questions(&self.data.join(name))?, by_subject);
            wins &= result.features_win();
            if self.json {
                reports.push(report(name, &result));
            } else {
                print(name, &result, &mut stdout)?;
            }
        }
        if self.json {
            return stdout.json(&json!({ "sets": reports, "features_beat_length_on_both": wins }));
        }
        stdout.line(if wins {
            "prompt features are certainly better than prompt length on both sets"
        } else {
            "prompt features are not certainly better than prompt length on both sets: routing by complexity is off"
        })
    }
}

fn report(name: &str, result: &Evaluation) -> serde_json::Value {
    let curves: Vec<_> = result
        .curves
        .iter()
        .map(|(kind, curve)| {
            json!({ "router": kind.as_str(), "apgr": curve.apgr(), "cpt": [curve.cpt(0.5), curve.cpt(0.8), curve.cpt(0.95)] })
        })
        .collect();
    json!({
        "set": name, "questions": result.questions, "weak": result.weak, "strong": result.strong, "routers": curves,
        "features_over_length": { "difference": result.over_length.difference, "interval": result.over_length.interval },
    })
}

fn print(name: &str, result: &Evaluation, stdout: &mut Stdout) -> Result<()> {
    stdout.line(&format!(
        "{name}: {} questions, weak {:.1}%, strong {:.1}%",
        result.questions,
        result.weak * 100.0,
        result.strong * 100.0
    ))?;
    let columns = ["ROUTER", "APGR", "CPT50", "CPT80", "CPT95"];
    let mut table =
        Table::new(&columns.map(|name| (name, if name == "ROUTER" { Align::Left } else { Align::Right })));
    for (kind, curve) in &result.curves {
        let share = |part| format!("{:.1}%", curve.cpt(part) * 100.0);
        table.row([
            kind.as_str().to_owned(),
            format!("{:.3}", curve.apgr()),
            share(0.5),
            share(0.8),
            share(0.95),
        ]);
    }
    for line in table.lines() {
        stdout.line(&line)?;
    }
    let (low, high) = result.over_length.interval;
    stdout
        .line(&format!("features over length: {:+.3} [{low:+.3}, {high:+.3}]", result.over_length.difference))
}

/// The questions of a folder, without those that the models may have been trained on.
fn questions(folder: &Path) -> Result<Vec<Question>> {
    let mut left_out: HashSet<String> = HashSet::new();
    for line in text(&folder.join("contaminated_prompts.jsonl"))?.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).context("contaminated_prompts.jsonl is not JSON lines")?;
        left_out.extend(value.get("eval_prompt").and_then(|prompt| prompt.as_str()).map(plain));
    }
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "csv"))
        .collect();
    files.sort();
    let mut questions = Vec::new();
    for file in files {
        let subject = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for row in rows(&text(&file)?).into_iter().skip(1) {
            let [prompt, weak, strong, ..] = row.as_slice() else {
                bail!("{} has a row with less than three columns", file.display());
            };
            if !left_out.contains(&plain(prompt)) {
                let right = |cell: &String| cell.eq_ignore_ascii_case("true");
                questions.push(Question {
                    prompt: prompt.clone(),
                    subject: subject.clone(),
                    weak: right(weak),
                    strong: right(strong),
                });
            }
        }
    }
    if questions.is_empty() {
        bail!("{} holds no questions", folder.display());
    }
    Ok(questions)
}

/// Letters and digits only: copies of a prompt differ in blanks and marks.
fn plain(prompt: &str) -> String {
    prompt.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn text(path: &Path) -> Result<String> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_BYTES {
        bail!("{} is larger than {MAX_BYTES} bytes", path.display());
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Rows of comma-separated values (RFC 4180): quoted cells may hold commas, line ends and doubled quotes.
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut cell = String::new();
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            _ => cell.push(letter),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_cells_are_whole() {
        let read = rows("a,b\r\n\"x, \"\"y\"\"\nz\",True\nlast,");
        assert_eq!(read, [vec!["a", "b"], vec!["x, \"y\"\nz", "True"], vec!["last", ""]]);
    }
}
