//! Standard output: what was asked for, and nothing else.

use std::io::{Write, stdout};

use crate::error::CliError;

/// Prints text at once.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| CliError::Output { source })
}
