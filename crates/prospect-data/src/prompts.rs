//! Prompts alone, for generation: from rows of any supported format, labelled
//! and answered or not.

use prospect_core::Columns;
use serde_json::{Map, Value};

use crate::error::LISTED_BAD_ROWS;
use crate::pipeline::for_each_row;
use crate::row::{Content, RowParser};
use crate::{BadRow, DataError, read};

/// A prompt with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRow {
    /// File as it was found.
    pub file: String,
    /// Line of a text file, row of a Parquet file or item of a JSON array, from 1.
    pub line: u64,
    /// The prompt.
    pub prompt: Content,
    /// Further variables of the chat template.
    pub arguments: Map<String, Value>,
}

/// Reads the prompts of all rows, in file order; a pair has one.
///
/// # Errors
/// Files that cannot be read, rows without a prompt, or no rows at all.
pub fn read_prompts(files: &[String], columns: &Columns) -> Result<Vec<PromptRow>, DataError> {
    let sources = read::expand(files)?;
    let parser = RowParser { columns, label_threshold: None };
    let (mut prompts, mut bad_rows) = (Vec::new(), Vec::new());
    for_each_row(
        &sources,
        &parser.read_columns(),
        |content| parser.parse_prompt(content),
        |file, line, parsed| {
            let file = sources[file].name();
            match parsed {
                Ok((prompt, arguments)) => {
                    prompts.push(PromptRow { file, line, prompt, arguments })
                }
                Err(error) => {
                    bad_rows.push(BadRow {
                        file,
                        line,
                        field: error.field,
                        message: error.message,
                    });
                }
            }
            Ok(())
        },
    )?;
    if !bad_rows.is_empty() {
        let total = bad_rows.len() as u64;
        bad_rows.truncate(LISTED_BAD_ROWS);
        let num_rows = prompts.len() as u64 + total;
        return Err(DataError::BadRows { first: bad_rows, total, num_rows });
    }
    if prompts.is_empty() {
        return Err(DataError::Empty {
            files: files.join(", "),
            reason: "they hold no rows".to_owned(),
        });
    }
    Ok(prompts)
}
