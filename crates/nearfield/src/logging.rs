//! The log: on standard error, quiet unless asked.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::folders::variable;
use crate::output::Style;
use crate::panics;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// The level for `-v` given so many times; `usual` is what the command shows by itself.
    pub(crate) fn new(quiet: bool, verbose: u8, usual: Self) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Error,
            (false, 0) => usual,
            (false, 1) => Self::Info,
            (false, 2) => Self::Debug,
            (false, _) => Self::Trace,
        }
    }

    /// More of our own crates than of others; `nearfield` matches every name that begins so. Why a model was not loaded is
    /// the error of the command that asked, and not said twice.
    const fn filter(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn,nearfield_server::local=error",
            Self::Info => "warn,nearfield=info",
            Self::Debug => "info,nearfield=debug",
            Self::Trace => "trace",
        }
    }
}

/// Starts the log; `RUST_LOG` goes before `level`.
pub(crate) fn start(level: Level) {
    let filter = if variable("RUST_LOG").is_some() {
        EnvFilter::builder().from_env_lossy()
    } else {
        EnvFilter::new(level.filter())
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && Style::colours_wanted())
        .with_target(false);
    // Only a second start in the same process fails, and then the first one's settings hold.
    let _ = subscriber.try_init();
    panics::keep_quotes_back();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_can_be_read() {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            assert!(EnvFilter::try_new(level.filter()).is_ok(), "{level:?}");
        }
    }

    #[test]
    fn quiet_wins_over_verbose() {
        assert_eq!(Level::new(true, 3, Level::Info), Level::Error);
        assert_eq!(Level::new(false, 0, Level::Info), Level::Info);
        assert_eq!(Level::new(false, 2, Level::Warn), Level::Debug);
    }
}
