//! `prospect completions`: scripts for shells, on standard output.

use clap::CommandFactory;
use prospect_core::ExitCode;

use crate::args::{Cli, CompletionsArgs};
use crate::error::CliError;
use crate::output;

/// Prints the script of one shell.
pub fn run(args: &CompletionsArgs) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "prospect", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Complete)
}
