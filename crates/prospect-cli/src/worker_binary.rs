//! Where the worker program is.

use std::env;
use std::path::PathBuf;

use crate::error::CliError;

/// Variable that names the worker program.
pub const VARIABLE: &str = "PROSPECT_WORKER";

const NAME: &str = "prospect-worker";

/// The program that `PROSPECT_WORKER` names, else the one beside this program.
pub fn find() -> Result<PathBuf, CliError> {
    if let Some(program) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let program = PathBuf::from(program);
        if program.is_file() {
            return Ok(program);
        }
        return Err(CliError::WorkerMissing { looked_at: program });
    }
    let own = env::current_exe().map_err(|source| CliError::Runtime { source })?;
    let program = own.with_file_name(NAME);
    if program.is_file() {
        Ok(program)
    } else {
        Err(CliError::WorkerMissing { looked_at: program })
    }
}
