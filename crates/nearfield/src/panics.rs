//! What is said of a fault of this program itself.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

/// Has panics logged with their place and without what they quote: messages that are put together at run time, such as
/// those of the standard library about a string, may hold a part of a request.
pub(crate) fn keep_quotes_back() {
    panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    // A text that stands in the source as it is.
    let said = panic.payload().downcast_ref::<&'static str>().copied();
    let said = said.unwrap_or("what it says may quote a request and is not logged");
    // Only where RUST_BACKTRACE asks for it; it names functions and lines.
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&trace));
    let thread = thread::current();
    tracing::error!(
        place = place.as_deref().unwrap_or("unknown"),
        thread = thread.name(),
        trace,
        "a fault of this program: {said}"
    );
}

#[cfg(test)]
mod tests;
