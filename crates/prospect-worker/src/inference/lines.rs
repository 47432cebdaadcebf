//! Rows of JSON, one a line. A bad one is named by its line.

use std::io::{BufRead, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::InferenceError;

/// Rows of the input with their line numbers; empty lines are passed over.
pub(super) struct Lines<R> {
    input: R,
    line: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, line: 0 }
    }

    /// The next row, with its line.
    pub(super) fn next<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(usize, T)>, InferenceError> {
        let mut text = String::new();
        loop {
            text.clear();
            self.line += 1;
            let read = self
                .input
                .read_line(&mut text)
                .map_err(|source| InferenceError::Stream { action: "read the input", source })?;
            if read == 0 {
                return Ok(None);
            }
            if !text.trim().is_empty() {
                break;
            }
        }
        serde_json::from_str(&text)
            .map(|row| Some((self.line, row)))
            .map_err(|error| row_error(self.line, format!("is not what is expected: {error}")))
    }
}

/// Writes a row and hands it on at once.
pub(super) fn write_row(
    output: &mut impl Write,
    row: &impl Serialize,
) -> Result<(), InferenceError> {
    let failed = |source| InferenceError::Stream { action: "write the output", source };
    serde_json::to_writer(&mut *output, row).map_err(|error| failed(error.into()))?;
    output.write_all(b"\n").and_then(|()| output.flush()).map_err(failed)
}

pub(super) fn row_error(line: usize, problem: String) -> InferenceError {
    InferenceError::Row { line, problem }
}

/// Refuses a list of tokens that is empty or leaves the vocabulary.
pub(super) fn check_ids(
    line: usize,
    field: &str,
    ids: &[u32],
    vocab_size: i64,
) -> Result<(), InferenceError> {
    if ids.is_empty() {
        return Err(row_error(line, format!("has an empty {field}; at least one token is needed")));
    }
    match ids.iter().find(|&&id| i64::from(id) >= vocab_size) {
        Some(id) => Err(row_error(
            line,
            format!(
                "has token {id} in {field}, but the model's vocabulary has {vocab_size} tokens"
            ),
        )),
        None => Ok(()),
    }
}
