//! The `prospect` command. It never links libtorch: what needs a device runs
//! in the worker program beside it.

mod args;
mod client;
mod commands;
mod crew;
mod devices;
mod display;
mod error;
mod files;
mod logging;
mod metrics;
mod notices;
mod output;
mod pairs;
mod signals;
mod status_json;
mod worker_binary;
mod worker_pipe;

use clap::Parser;
use prospect_core::ExitCode;

use crate::args::{Cli, Command};
use crate::error::CliError;

fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and versions are asked for; everything else is a mistake.
            let exit = if usage.use_stderr() { ExitCode::Usage } else { ExitCode::Complete };
            return match usage.print() {
                Err(_) if !usage.use_stderr() => ExitCode::Storage.code().into(),
                _ => exit.code().into(),
            };
        }
    };
    let exit = match run(cli) {
        Ok(exit) => exit,
        // Whoever read the output, `head` for instance, has seen enough.
        Err(error) if error.is_closed_output() => ExitCode::Complete,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    };
    notices::finish();
    exit.code().into()
}

fn run(cli: Cli) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Train(args) => on_runtime(commands::train::run(args)),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Coordinator(args) => on_runtime(commands::coordinator::run(args)),
        Command::Worker(args) => commands::worker::run(&args),
        Command::Status(args) => on_runtime(commands::status::run(args)),
        Command::Verify(args) => commands::verify::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Score(args) => commands::score::run(args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
    }
}

/// Carries a command out on a runtime of its own. Work that was left behind,
/// such as a read of a slow disk, does not hold the end back.
fn on_runtime(
    command: impl Future<Output = Result<ExitCode, CliError>>,
) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Runtime { source })?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
