//! Why a request went where it went, from its row in the ledger. Content is not there, so none is shown.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use jiff::tz::TimeZone;
use nearfield_privacy::DataClass;
use nearfield_router::rules::Rule;
use nearfield_store::{AttemptRow, Filter, Row};
use serde_json::json;

use super::super::listed;
use crate::app::App;
use crate::config::RulesFile;
use crate::output::Stdout;

/// What a row says in the place of a rule where none applied.
const NO_RULE: &str = "no rule applies: this machine only";
/// What goes before the row's id in replies.
const REPLY_PREFIXES: [&str; 2] = ["chatcmpl-", "cmpl-"];

pub(super) async fn explain(
    app: &App,
    id: &str,
    file: Option<&RulesFile>,
    json: bool,
    stdout: &mut Stdout,
) -> Result<()> {
    let id = REPLY_PREFIXES.iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id);
    let ledger = app.ledger().await?;
    let rows = ledger.rows(&Filter { id: Some(id.to_owned()), ..Filter::default() }).await;
    ledger.close().await?;
    let Some(row) = rows?.pop() else {
        bail!("the ledger has no request {id}; `nearfield ledger --json` shows the ids");
    };
    let past = Past::new(&row, file);
    if json { past.json(stdout) } else { past.lines().iter().try_for_each(|line| stdout.line(line)) }
}

/// A row, and what its words say.
struct Past<'a> {
    row: &'a Row,
    /// Rule and class of the decision, where a policy file decided; the rule is `None` when none applied.
    decided: Option<(Option<&'a str>, DataClass)>,
    /// The policy file as it is now.
    file: Option<&'a RulesFile>,
}

impl<'a> Past<'a> {
    fn new(row: &'a Row, file: Option<&'a RulesFile>) -> Self {
        Self { row, decided: decided(reason(row)), file }
    }

    fn is_current(&self) -> bool {
        self.file.is_some_and(|file| file.rules.hash() == self.row.policy_hash)
    }

    /// The rule that decided, where the file still says the same.
    fn rule(&self) -> Option<&'a Rule> {
        let name = self.decided?.0?;
        let file = self.file.filter(|_| self.is_current())?;
        file.rules.rule.iter().find(|rule| rule.name == name)
    }

    fn json(&self, stdout: &mut Stdout) -> Result<()> {
        let row = self.row;
        stdout.json(&json!({
            "id": row.id, "time": row.time, "key_id": row.key_id, "model": row.model,
            "policy_hash": row.policy_hash, "policy_is_current": self.is_current(),
            "decided": reason(row), "class": self.decided.map(|(_, class)| class),
            "rule": self.decided.and_then(|(rule, _)| rule), "attempts": row.attempts,
            "reason": row.reason, "retention": row.retention, "backend": row.backend, "outcome": row.outcome,
        }))
    }

    fn lines(&self) -> Vec<String> {
        let row = self.row;
        let time = row.time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S");
        let key = row.key_id.as_deref().unwrap_or("cli");
        let mut lines = vec![format!(
            "request: {}, asked at {time} with the key {key} for the model {}",
            row.id, row.model
        )];
        lines.push(self.policy());
        match self.decided {
            None => lines.push(format!("decided: {}", reason(row))),
            Some((rule, class)) => {
                lines.push(format!("class: {class}"));
                lines.push(format!("rule: {}", rule.unwrap_or("none applied, so it stayed on this machine")));
                lines.extend(self.rule().map(terms));
            }
        }
        if row.attempts.is_empty() {
            lines.push("attempts: none; nothing was sent to any backend".to_owned());
        }
        lines.extend(row.attempts.iter().zip(1..).map(|(attempt, at)| tried(attempt, at)));
        lines.extend(row.retention.as_ref().map(|retention| format!("retention: {retention}")));
        lines.push(self.outcome());
        lines.push("content is never stored, so none is shown".to_owned());
        lines
    }

    fn policy(&self) -> String {
        let hash = &self.row.policy_hash;
        match self.file {
            Some(_) if self.is_current() => format!("policy: {hash}, the one that the file still says"),
            Some(file) => {
                let now = file.rules.hash();
                format!(
                    "policy: {hash}; the file says something else by now ({now}), so its rules are not shown"
                )
            }
            None => format!("policy: {hash}"),
        }
    }

    fn outcome(&self) -> String {
        let Row { outcome, backend, attempts, .. } = self.row;
        let outcome = outcome.as_ref().map_or_else(|| "it runs still".to_owned(), ToString::to_string);
        match backend {
            Some(backend) if !attempts.is_empty() && outcome == "done" => {
                format!("outcome: {outcome}, answered by {backend}")
            }
            _ => format!("outcome: {outcome}"),
        }
    }
}

/// Why the first candidate stood first: the first attempt has it, also where another one answered in the end.
fn reason(row: &Row) -> &str {
    row.attempts.first().map_or(row.reason.as_str(), |attempt| attempt.why.as_str())
}

/// Rule and class of a decision by rules, `rule (class)`; `None` for others.
fn decided(reason: &str) -> Option<(Option<&str>, DataClass)> {
    let (rule, class) = reason.strip_suffix(')')?.rsplit_once(" (")?;
    let class = DataClass::from_name(class)?;
    Some(((rule != NO_RULE).then_some(rule), class))
}

/// What a rule says about where its requests go.
fn terms(rule: &Rule) -> String {
    if rule.deny {
        return "  refuses such requests".to_owned();
    }
    let mut said = format!("  backends in order: {}", listed(&rule.backends));
    for (what, names) in [
        ("demands", &rule.require),
        ("masks", &rule.mask),
        ("hashes", &rule.hash),
        ("keeps here", &rule.keep_local),
        ("blocks", &rule.block),
    ] {
        if !names.is_empty() {
            let _ = write!(said, "; {what}: {}", listed(names));
        }
    }
    said
}

/// One attempt's line.
fn tried(attempt: &AttemptRow, at: usize) -> String {
    let AttemptRow { backend, locality, why, bytes_out, outcome, duration, .. } = attempt;
    let left = if locality == "cloud" {
        format!("; {bytes_out} bytes of content left this machine")
    } else {
        String::new()
    };
    let outcome = outcome.as_ref().map_or_else(|| "it runs still".to_owned(), ToString::to_string);
    let after = duration.map_or_else(String::new, |time| format!(" after {} ms", time.as_millis()));
    format!("attempt {at}: {backend} ({locality}), since {why}{left}; {outcome}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_and_class_are_read_from_a_reason() {
        for (reason, expected) in [
            ("masked (personal)", Some((Some("masked"), DataClass::Personal))),
            ("small (or not) (public)", Some((Some("small (or not)"), DataClass::Public))),
            ("no rule applies: this machine only (internal)", Some((None, DataClass::Internal))),
            ("local-only", None),
            ("prefer-local: the model is not installed here", None),
            ("a rule (of old)", None),
        ] {
            assert_eq!(decided(reason), expected, "{reason}");
        }
    }
}
