//! How a command ends when it does not succeed: one line on standard error, and the exit code.

use std::process::ExitCode;

use nearfield_hub::HubError;

use crate::config::ConfigError;
use crate::output::{Style, stderr_line};

/// The command failed.
const FAILED: u8 = 1;
/// The command was used wrongly: the same code as clap's.
const WRONG_USAGE: u8 = 2;
/// Stopped by Ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Arguments that each are well-formed and do not go together, or are missing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Ctrl-C, with what it means for the work that was under way.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Interrupted(pub(crate) &'static str);

/// Whoever read our standard output has gone: `nearfield list | head -1`.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct OutputClosed;

/// Reports an error and says what the process shall exit with.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    let style = Style::stderr();
    if let Some(Interrupted(what)) = error.downcast_ref() {
        if !what.is_empty() {
            stderr_line(what);
        }
        return ExitCode::from(INTERRUPTED);
    }
    stderr_line(&format!("{} {}", style.error("error:"), one_text(error)));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    let wrong_reference = matches!(
        error.downcast_ref(),
        Some(HubError::InvalidReference { .. } | HubError::InvalidSetting { .. })
    );
    if wrong_reference || error.is::<UsageError>() || error.is::<ConfigError>() {
        WRONG_USAGE
    } else {
        FAILED
    }
}

/// The chain of causes as one text. Many of our errors quote their cause already; it is not said twice.
pub(crate) fn one_text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_are_said_once() {
        let plain = Err::<(), _>(io::Error::other("the cause")).context("the act").unwrap_err();
        assert_eq!(one_text(&plain), "the act: the cause");
        let quoting = Err::<(), _>(io::Error::other("the cause")).context("the act (the cause)").unwrap_err();
        assert_eq!(one_text(&quoting), "the act (the cause)");
    }

    #[test]
    fn wrong_usage_has_a_code_of_its_own() {
        assert_eq!(code(&UsageError("x".into()).into()), WRONG_USAGE);
        let reference = HubError::InvalidReference { text: "x".into(), reason: "y".into() };
        assert_eq!(code(&anyhow::Error::from(reference).context("z")), WRONG_USAGE);
        assert_eq!(code(&HubError::NotInstalled { name: "x".into() }.into()), FAILED);
        assert_eq!(code(&anyhow::anyhow!("x")), FAILED);
    }
}
