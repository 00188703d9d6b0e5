//! `nearfield ledger`.

use anyhow::Result;
use clap::Args;
use jiff::{SignedDuration, Span, Timestamp, civil::Date, tz::TimeZone};
use nearfield_store::{Filter, NanoDollars, Row, Summary, SummaryLine};

use crate::app::App;
use crate::output::{Align, Stdout, Style, Table};

/// Rows that people are shown unless they say how many.
const ROWS: u32 = 20;

/// Show what was asked, where it ran, what it cost and what the cloud would have charged
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LedgerCommand {
    /// Only requests since a time (2026-11-24, 2026-11-24T08:00:00Z) or for a while back (45m, 12h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,

    /// Only requests for this model, as the caller wrote it
    #[arg(long)]
    model: Option<String>,

    /// Only requests that this backend answered
    #[arg(long)]
    backend: Option<String>,

    /// Only requests with this key's id; `cli` stands for the command line
    #[arg(long, value_name = "ID")]
    key: Option<String>,

    /// At most so many rows, the newest; 0 for all [default: 20, with --json all]. Sums ignore this
    #[arg(long, value_name = "N")]
    limit: Option<u32>,

    /// Print the sums only
    #[arg(long)]
    sums: bool,

    /// Print a JSON array of rows, or with --sums an object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  nearfield ledger
  nearfield ledger --since 7d --sums
  nearfield ledger --json | jq '.[].cost_usd'

There is one row for each request of run, chat and serve, also for those that failed; none holds text of a prompt or \
an answer.";

impl LedgerCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let ledger = app.ledger().await?;
        let filter = Filter {
            since: self.since,
            model: self.model.clone(),
            backend: self.backend.clone(),
            key_id: self.key.clone(),
            limit: self.limit.or((!self.json).then_some(ROWS)).filter(|limit| *limit > 0),
            ..Filter::default()
        };
        let rows = if self.sums { Vec::new() } else { ledger.rows(&filter).await? };
        let summary = ledger.summary(&filter).await?;
        let printed = self.print(app, &rows, &summary);
        ledger.close().await?;
        printed
    }

    fn print(&self, app: &App, rows: &[Row], summary: &Summary) -> Result<()> {
        let mut stdout = Stdout::new();
        if self.json {
            return if self.sums { stdout.json(summary) } else { json_rows(&mut stdout, rows) };
        }
        if summary.total.requests == 0 {
            app.note("the ledger has no such request; every run, chat and served request gets a row");
            return Ok(());
        }
        if !self.sums {
            let shown = row_table(rows);
            print_table(&mut stdout, &shown)?;
            let more = summary.total.requests.saturating_sub(rows.len() as u64);
            if more > 0 {
                app.note(&format!("{more} older rows are not shown; --limit 0 shows all"));
            }
            stdout.line("")?;
        }
        print_table(&mut stdout, &sum_table(summary))
    }
}

/// One row a line, so that the output is an array for JSON readers and can still be read line by line.
fn json_rows(stdout: &mut Stdout, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        return stdout.line("[]");
    }
    stdout.line("[")?;
    for (at, row) in rows.iter().enumerate() {
        let comma = if at + 1 < rows.len() { "," } else { "" };
        stdout.line(&format!("{}{comma}", serde_json::to_string(row)?))?;
    }
    stdout.line("]")
}

fn print_table(stdout: &mut Stdout, table: &Table) -> Result<()> {
    let style = Style::stdout();
    for (at, line) in table.lines().iter().enumerate() {
        stdout.line(&if at == 0 { style.bold(line) } else { line.clone() })?;
    }
    Ok(())
}

fn row_table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("TIME", Align::Left),
        ("MODEL", Align::Left),
        ("BACKEND", Align::Left),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("TTFT", Align::Right),
        ("COST", Align::Right),
        ("CLOUD", Align::Right),
        ("OUTCOME", Align::Left),
        ("REASON", Align::Left),
    ]);
    for row in rows {
        let tokens = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        table.row([
            row.time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            row.model.clone(),
            row.backend.clone().unwrap_or_else(|| "-".to_owned()),
            tokens(row.usage.map(|usage| usage.prompt_tokens())),
            tokens(row.usage.map(|usage| usage.completion_tokens())),
            row.ttft.map_or_else(|| "-".to_owned(), |ttft| format!("{:.2} s", ttft.as_secs_f64())),
            money(row.cost),
            money(row.counterfactual.as_ref().map(|other| other.cost)),
            row.outcome.as_ref().map_or_else(|| "running".to_owned(), ToString::to_string),
            row.reason.clone(),
        ]);
    }
    table
}

fn sum_table(summary: &Summary) -> Table {
    let mut table = Table::new(&[
        ("BACKEND", Align::Left),
        ("MODEL", Align::Left),
        ("REQUESTS", Align::Right),
        ("DONE", Align::Right),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("COST", Align::Right),
        ("UNPRICED", Align::Right),
        ("CLOUD", Align::Right),
        ("SAVED", Align::Right),
    ]);
    let mut add = |backend: String, model: String, line: &SummaryLine| {
        let known = line.unpriced < line.requests;
        table.row([
            backend,
            model,
            line.requests.to_string(),
            line.done.to_string(),
            line.input_tokens.saturating_add(line.cached_input_tokens).to_string(),
            line.output_tokens.saturating_add(line.reasoning_tokens).to_string(),
            money(known.then_some(line.cost)),
            line.unpriced.to_string(),
            money(Some(line.counterfactual)),
            money(line.saved),
        ]);
    };
    for line in &summary.lines {
        let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        add(or_dash(&line.backend), or_dash(&line.model), line);
    }
    add("all".to_owned(), String::new(), &summary.total);
    table
}

fn money(amount: Option<NanoDollars>) -> String {
    amount.map_or_else(|| "-".to_owned(), |amount| amount.to_string())
}

/// A moment, a day (from its start, here), or a while back from now.
fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(day) = text.parse::<Date>() {
        return day
            .to_zoned(TimeZone::system())
            .map(|zoned| zoned.timestamp())
            .map_err(|error| error.to_string());
    }
    let back = text.parse::<Span>().ok().filter(|span| span.is_positive());
    let back = back.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    back.and_then(|back: SignedDuration| Timestamp::now().checked_sub(back).ok())
        .ok_or_else(|| "expected a day, a time with zone, or a while such as 45m, 12h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_moments_days_and_whiles() {
        let moment = parse_since("2026-11-24T08:00:00Z").unwrap();
        assert_eq!(moment.to_string(), "2026-11-24T08:00:00Z");
        assert!(parse_since("2026-11-24").is_ok());
        for (text, seconds) in [("45m", 2700), ("12h", 43_200), ("7d", 604_800), ("1h 30m", 5400)] {
            let back = Timestamp::now().as_second() - parse_since(text).unwrap().as_second();
            assert!((seconds..seconds + 3).contains(&back), "{text}: {back}");
        }
        for wrong in ["", "yesterday", "7", "-2h", "2026-13-01"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }
}
