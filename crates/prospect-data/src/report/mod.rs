//! What is in a data set and what was done to it: nothing is dropped, cut or
//! repeated without being counted here.

mod advice;
mod display;
mod percentiles;
mod tally;
#[cfg(test)]
mod tests;

use prospect_core::{Label, ObjectiveName};
use serde::{Deserialize, Serialize};

pub use advice::WeightAdvice;
pub use percentiles::{LengthUnit, Lengths, Percentiles};
pub(crate) use tally::Tally;

use crate::error::LISTED_BAD_ROWS;
use crate::{BadRow, DataError};

/// The content of data files. Its `Display` is a table for people; it serialises for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// The files in the order they were read.
    pub files: Vec<FileRows>,
    /// Rows that were read; a pair counts as two.
    pub rows_read: u64,
    /// Rows that are used.
    pub rows: u64,
    /// Of these, desirable ones.
    pub num_desirable: u64,
    /// Of these, undesirable ones.
    pub num_undesirable: u64,
    /// Lengths of all rows that could be read, before anything is cut; absent without such rows.
    pub lengths: Option<Lengths>,
    /// Tokens of the rows as they are trained on, after the cut; 0 without a tokenizer.
    pub num_tokens: u64,
    /// Most tokens of prompt and completion together.
    pub max_length: u32,
    /// Used rows whose completion lost its end to `max_length`.
    pub truncated: u64,
    /// Rows left out because their prompt alone fills `max_length`.
    pub overlong: u64,
    /// Used rows that repeat the prompt and the completion of an earlier one.
    pub duplicates: u64,
    /// Distinct pairs of prompt and completion that are labelled both ways.
    pub contradictory: u64,
    /// Distinct prompts.
    pub distinct_prompts: u64,
    /// Used rows whose prompt's tokens are not a prefix of the whole text's.
    pub non_prefix_prompts: u64,
    /// What to set the class weights to; absent unless both classes occur.
    pub weight_advice: Option<WeightAdvice>,
    /// Every row that cannot be used, and why.
    pub bad_rows: Vec<BadRow>,
}

/// Which classes data must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// Whatever there is: data that a model is only measured on.
    Any,
    /// Both: data that this objective trains on.
    Both(ObjectiveName),
}

/// A file and its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRows {
    /// File as it was found.
    pub file: String,
    /// Rows read from it; a pair counts as two.
    pub rows: u64,
}

impl DataReport {
    /// Whether the data can be used.
    ///
    /// # Errors
    /// Bad rows unless `skip_bad_rows`, no rows at all, or one class where both are needed.
    pub fn ensure_usable(&self, skip_bad_rows: bool, classes: Classes) -> Result<(), DataError> {
        if !skip_bad_rows && !self.bad_rows.is_empty() {
            return Err(DataError::BadRows {
                first: self.bad_rows.iter().take(LISTED_BAD_ROWS).cloned().collect(),
                total: self.bad_rows.len() as u64,
                num_rows: self.rows_read,
            });
        }
        if self.rows == 0 {
            let files: Vec<&str> = self.files.iter().map(|file| file.file.as_str()).collect();
            let reason = match (self.rows_read, self.overlong) {
                (0, _) => "they hold no rows; add feedback".to_owned(),
                (read, overlong) => format!(
                    "{} of {read} rows are bad and the prompts of {overlong} fill data.max_length",
                    self.bad_rows.len()
                ),
            };
            return Err(DataError::Empty { files: files.join(", "), reason });
        }
        let Classes::Both(objective) = classes else { return Ok(()) };
        let found = match (self.num_desirable, self.num_undesirable) {
            (0, _) => Label::Undesirable,
            (_, 0) => Label::Desirable,
            _ => return Ok(()),
        };
        Err(DataError::OneClass { found, num_rows: self.rows, objective })
    }

    /// Puts other names on the files, in the same order: a stored report may have been made
    /// when the same content lay elsewhere.
    pub(crate) fn rename_files(&mut self, names: &[String]) {
        let old: Vec<String> = self.files.iter().map(|file| file.file.clone()).collect();
        for (file, name) in self.files.iter_mut().zip(names) {
            file.file.clone_from(name);
        }
        for row in &mut self.bad_rows {
            if let Some(idx) = old.iter().position(|name| *name == row.file)
                && let Some(name) = names.get(idx)
            {
                row.file.clone_from(name);
            }
        }
    }
}
