//! What can be wrong with the configuration, with file and line, and never with a secret.

use std::path::{Path, PathBuf};

use crate::suggest::did_you_mean;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {reason}", path.display())]
    Read { path: PathBuf, reason: String },
    /// Something on one of its lines is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    At { path: PathBuf, line: usize, problem: String },
    /// Its parts do not go together.
    #[error("{}{problem}", prefix(path))]
    Whole { path: PathBuf, problem: String },
}

impl ConfigError {
    /// Gives an error without a line that of a byte of the file.
    pub(super) fn or_at(self, source: Source<'_>, offset: usize) -> Self {
        match self {
            Self::Whole { problem, .. } => source.at(offset, problem),
            other => other,
        }
    }
}

/// Without a file, what is wrong is a default.
fn prefix(path: &Path) -> String {
    if path.as_os_str().is_empty() { String::new() } else { format!("{}: ", path.display()) }
}

/// The file that an error is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at a byte of the file.
    pub(super) fn at(self, offset: usize, problem: String) -> ConfigError {
        ConfigError::At { path: self.path.to_owned(), line: self.line(offset), problem }
    }

    /// The line, counted from 1, of a byte of the file.
    pub(super) fn line(self, offset: usize) -> usize {
        self.text.get(..offset).unwrap_or_default().matches('\n').count() + 1
    }

    /// An error that has no line.
    pub(super) fn whole(self, problem: String) -> ConfigError {
        ConfigError::Whole { path: self.path.to_owned(), problem }
    }

    /// What the TOML reader found. Its own display quotes the line, which may hold a secret, so that only its message
    /// is used.
    pub(super) fn explain(self, error: &toml::de::Error) -> ConfigError {
        let problem = reworded(error.message());
        match error.span() {
            Some(span) => self.at(span.start, problem),
            None => self.whole(problem),
        }
    }
}

/// The reader's message with a suggestion where a name is nearly right, and without quoted values.
fn reworded(message: &str) -> String {
    for (start, what) in [("unknown field ", "setting"), ("unknown variant ", "value")] {
        if let Some(rest) = message.strip_prefix(start)
            && let Some((name, expected)) = rest.split_once(", ")
        {
            let quoted = |text: &'_ str| -> Vec<String> {
                text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
            };
            let (name, known) = (quoted(name).concat(), quoted(expected));
            let hint = did_you_mean(&name, known.iter().map(String::as_str));
            let known = known.join("`, `");
            return if hint.is_empty() {
                format!("there is no {what} `{name}` here; known are `{known}`")
            } else {
                format!("there is no {what} `{name}` here{hint}")
            };
        }
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("the setting {rest} is missing");
    }
    without_value(message)
}

/// `invalid type: string "...", expected x` without the value: someone may have put a secret in the wrong place.
fn without_value(message: &str) -> String {
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return message.lines().next().unwrap_or_default().to_owned();
    };
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim();
    format!("expected {expected}, found {}", if kind.is_empty() { "something else" } else { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_suggest_and_do_not_quote() {
        assert_eq!(
            reworded("unknown field `thread`, expected one of `threads`, `kv`"),
            "there is no setting `thread` here; did you mean `threads`?"
        );
        assert_eq!(
            reworded("unknown variant `x`, expected `a` or `b`"),
            "there is no value `x` here; known are `a`, `b`"
        );
        assert_eq!(reworded("missing field `base_url`"), "the setting `base_url` is missing");
        assert_eq!(
            reworded("invalid type: string \"sk-, expected b\", expected a table"),
            "expected a table, found string"
        );
        assert_eq!(reworded("invalid value: integer `-1`, expected u16"), "expected u16, found integer");
    }
}
