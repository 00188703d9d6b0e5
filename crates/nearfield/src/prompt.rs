//! The prompt of `nearfield run`: words of the command line, text from standard input, or both.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::app::App;
use crate::failure::UsageError;

/// The longest text that is taken from standard input.
const MAX_BYTES: u64 = 16 << 20;
/// How long standard input may be silent before we say that we wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Reads the whole prompt. Standard input counts unless it is a terminal.
pub(crate) async fn read(app: &App, words: &[String]) -> Result<String> {
    let words = words.join(" ");
    if io::stdin().is_terminal() {
        return joined(&words, "");
    }
    let reading = tokio::task::spawn_blocking(piped);
    tokio::pin!(reading);
    let piped = tokio::select! {
        text = &mut reading => text,
        () = tokio::time::sleep(PATIENCE) => {
            app.note("waiting for the end of standard input; add `< /dev/null` if nothing comes from there");
            reading.await
        }
    };
    joined(&words, &piped.context("standard input could not be read")??)
}

fn piped() -> Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("standard input is longer than {} MiB; give a shorter text", MAX_BYTES >> 20);
    }
    String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("standard input is not a text in UTF-8"))
}

/// The words first, then the piped text, which loses the line end that most programs add.
fn joined(words: &str, piped: &str) -> Result<String> {
    let piped = piped.strip_suffix('\n').unwrap_or(piped);
    let piped = piped.strip_suffix('\r').unwrap_or(piped);
    match (words.trim().is_empty(), piped.trim().is_empty()) {
        (true, true) => Err(UsageError(
            "there is no prompt: give one, as in `nearfield run MODEL \"Why is the sky blue?\"`, or pipe a text in; \
             `nearfield chat MODEL` holds a conversation"
                .to_owned(),
        )
        .into()),
        (false, true) => Ok(words.to_owned()),
        (true, false) => Ok(piped.to_owned()),
        (false, false) => Ok(format!("{words}\n\n{piped}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_before_what_is_piped() {
        assert_eq!(joined("summarise this", "a\nb\n").unwrap(), "summarise this\n\na\nb");
        assert_eq!(joined("", "only\r\n").unwrap(), "only");
        assert_eq!(joined(" indented", "\n").unwrap(), " indented");
        assert!(joined(" ", " \n").unwrap_err().is::<UsageError>());
    }
}
