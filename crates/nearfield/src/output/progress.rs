//! Progress of a pull: a bar on a terminal, now and then a line elsewhere, nothing when quiet.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nearfield_hub::{Progress, TerminalProgress, Transfer, describe};

use super::stderr_line;

/// How often a line is written where there is no bar.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how far a pull has come.
#[derive(Debug)]
pub(crate) enum PullProgress {
    Quiet,
    Bar(TerminalProgress),
    Lines { model: String, last: Mutex<Instant> },
}

impl PullProgress {
    /// The way that suits: `logging` says that log lines would go through a bar.
    pub(crate) fn new(model: &str, quiet: bool, logging: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if io::stderr().is_terminal() && !logging {
            Self::Bar(TerminalProgress::new(model))
        } else {
            Self::Lines { model: model.to_owned(), last: Mutex::new(Instant::now()) }
        }
    }
}

impl Progress for PullProgress {
    fn update(&self, transfer: &Transfer) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.update(transfer),
            Self::Lines { model, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    stderr_line(&format!("{model}: {}", describe(transfer)));
                }
            }
        }
    }

    fn message(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.message(text),
            Self::Lines { model, .. } => stderr_line(&format!("{model}: {text}")),
        }
    }

    fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish();
        }
    }
}
