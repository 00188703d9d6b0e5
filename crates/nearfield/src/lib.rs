//! The `nearfield` program: command line, configuration, receipts.
//!
//! One struct for each command (`cli`), one for the configuration file (`config`), and the ways to show results
//! (`output`). What a request needs on its way is put together in `gateway`.

use std::process::ExitCode;

mod answer;
mod app;
mod chat;
mod cli;
mod config;
mod failure;
mod folders;
mod gateway;
mod logging;
mod output;
mod panics;
mod prompt;
mod reload;
mod signals;
mod suggest;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main()
}
