//! The command line: one file and one struct for each command.

mod bench;
mod cache;
mod chat;
mod eval;
mod fit;
mod keys;
mod ledger;
mod list;
mod options;
mod policy;
mod pull;
mod rm;
mod route;
mod run;
mod serve;
mod show;
mod synth;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args, Parser, Subcommand};

use nearfield_server::offline;

use crate::app::App;
use crate::failure;
use crate::logging::{self, Level};

/// How long work that cannot be cancelled, such as mapping a file, may still take when the command is over.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Runs language models on this machine, and in the cloud only where your policy says so.
#[derive(Debug, Parser)]
#[command(name = "nearfield", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nearfield run smollm2:135m \"Why is the sky blue?\"
  nearfield chat qwen2.5-coder:1.5b
  nearfield serve

`nearfield help COMMAND` says more. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Keep models, ledger and keys here [env: NEARFIELD_DATA_DIR] [default: the platform's data folder]
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,

    /// Print results and errors only: no receipt, no progress, no notes
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Log more on standard error; -vv and -vvv even more. RUST_LOG goes before this
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunCommand),
    Chat(chat::ChatCommand),
    Pull(pull::PullCommand),
    List(list::ListCommand),
    Show(show::ShowCommand),
    Rm(rm::RmCommand),
    Serve(serve::ServeCommand),
    Fit(fit::FitCommand),
    Bench(bench::BenchCommand),
    Eval(eval::EvalCommand),
    Synth(synth::SynthCommand),
    Policy(policy::PolicyCommand),
    Route(route::RouteCommand),
    Keys(keys::KeysCommand),
    Ledger(ledger::LedgerCommand),
    Cache(cache::CacheCommand),
}

impl Command {
    /// What is logged without `-v`.
    const fn usual_level(&self) -> Level {
        match self {
            Self::Serve(_) => Level::Info,
            _ => Level::Warn,
        }
    }

    /// Whether the network is refused for the whole command.
    const fn is_offline(&self) -> bool {
        match self {
            Self::Run(command) => command.offline.offline,
            Self::Chat(command) => command.offline.offline,
            Self::Serve(command) => command.offline.offline,
            _ => false,
        }
    }

    async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Run(command) => Box::pin(command.run(app)).await,
            Self::Chat(command) => Box::pin(command.run(app)).await,
            Self::Pull(command) => Box::pin(command.run(app)).await,
            Self::List(command) => command.run(app),
            Self::Show(command) => command.run(app),
            Self::Rm(command) => command.run(app),
            Self::Serve(command) => Box::pin(command.run(app)).await,
            Self::Fit(command) => command.run(app),
            Self::Bench(command) => Box::pin(command.run(app)).await,
            Self::Eval(command) => Box::pin(command.run(app)).await,
            Self::Synth(command) => command.run(app),
            Self::Policy(command) => Box::pin(command.run(app)).await,
            Self::Route(command) => command.run(app),
            Self::Keys(command) => command.run(app),
            Self::Ledger(command) => Box::pin(command.run(app)).await,
            Self::Cache(command) => command.run(app),
        }
    }
}

/// Reads the arguments of the process and does what they say.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn start(cli: Cli) -> Result<()> {
    let GlobalArgs { data_dir, quiet, verbose } = cli.global;
    let level = Level::new(quiet, verbose, cli.command.usual_level());
    logging::start(level);
    let offline = cli.command.is_offline();
    let app = App::new(data_dir, quiet, verbose > 0, offline)?;
    if offline {
        // Before any other thread is there, since this binds only those that come from this one.
        offline::deny_connections()?;
        // A server takes its port first.
        if !matches!(cli.command, Command::Serve(_)) {
            offline::seal()?;
        }
        if !offline::ENFORCED_BY_KERNEL {
            app.note("--offline is kept by this program alone: this system cannot enforce it");
        }
    }
    // The engine has threads of its own, and so has a server for its connections.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start: the system refused threads or file handles")?;
    let result = runtime.block_on(cli.command.run(&app));
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// All commands with their full names: `nearfield keys add`.
    fn commands(command: &clap::Command, before: &str) -> Vec<(String, clap::Command)> {
        let name = format!("{before}{}", command.get_name());
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        let inner: Vec<_> = inner.flat_map(|inner| commands(inner, &format!("{name} "))).collect();
        std::iter::once((name, command.clone())).chain(inner).collect()
    }

    #[test]
    fn every_help_is_as_it_was_agreed_and_has_an_example() {
        let mut all = Cli::command().term_width(100);
        all.build();
        for (name, command) in commands(&all, "") {
            let help = command.term_width(100).render_help().to_string();
            assert!(help.contains("Example"), "{name}");
            insta::assert_snapshot!(name.replace(' ', "-"), help);
        }
    }
}
