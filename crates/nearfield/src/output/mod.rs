//! What people and scripts see: results on standard output, everything else on standard error.

mod progress;
mod receipt;
mod stdout;
mod style;
mod table;

use std::io::Write as _;

pub(crate) use progress::PullProgress;
pub(crate) use receipt::receipt_line;
pub(crate) use stdout::Stdout;
pub(crate) use style::Style;
pub(crate) use table::{Align, Table};

/// One line on standard error. If nobody reads that, there is nobody to tell.
pub(crate) fn stderr_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
