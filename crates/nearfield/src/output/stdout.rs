//! Standard output: buffered, flushed when something is complete, and quiet when its reader has gone.

use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::style::visible;
use crate::failure::OutputClosed;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Stdout {
    writer: BufWriter<io::Stdout>,
    terminal: bool,
}

impl Stdout {
    pub(crate) fn new() -> Self {
        Self { writer: BufWriter::new(io::stdout()), terminal: io::stdout().is_terminal() }
    }

    /// Whether a person is likely to look at it.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// One line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        checked(writeln!(self.writer, "{text}").and_then(|()| self.writer.flush()))
    }

    /// A piece of text that a model wrote, at once. What would control a terminal is made visible there.
    pub(crate) fn model_text(&mut self, text: &str) -> Result<()> {
        let shown = if self.terminal { visible(text) } else { text.into() };
        checked(self.writer.write_all(shown.as_bytes()).and_then(|()| self.writer.flush()))
    }

    /// One JSON value, indented, and a line end.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
        self.line(&text)
    }

    /// One JSON value on one line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).context("cannot write the result as JSON")?;
        self.line(&text)
    }
}

fn checked(result: io::Result<()>) -> Result<()> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow::Error::from(error).context("cannot write to standard output"),
    })
}
