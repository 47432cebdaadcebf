//! What can be wrong with feedback data and with what reads it, in words for
//! the one who has to mend it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use prospect_core::{ExitCode, Label, ObjectiveName};
use serde::{Deserialize, Serialize};

/// Bad rows that an error message lists; the report holds all of them.
pub(crate) const LISTED_BAD_ROWS: usize = 10;

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// File as it was found.
    pub file: String,
    /// Line of a text file, row of a Parquet file or item of a JSON array, from 1.
    pub line: u64,
    /// Column at fault; empty when the row as a whole is.
    pub field: String,
    /// What was found and what is expected.
    pub message: String,
}

/// Why data could not be read, checked, tokenised or stored.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A path or pattern without any file.
    #[error("no data file matches {pattern:?}: {reason}")]
    NoFiles {
        /// Path, glob or directory as given.
        pattern: String,
        /// What was looked for.
        reason: String,
    },
    /// A file whose name does not say that it can be read.
    #[error(
        "{}: the format of this file is not known from its name; expected .jsonl, .ndjson or .json (also with .gz or .zst), or .parquet",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// An address in an object store.
    #[error("{url:?} is not a local path: copy the data to a disk and give its path")]
    RemotePath {
        /// The address as given.
        url: String,
    },
    /// A file that cannot be read to its end.
    #[error("{}: reading failed after line {line}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Last line that was read; 0 for none.
        line: u64,
        /// The system's or the decoder's words.
        source: io::Error,
    },
    /// A Parquet or JSON file that is damaged or holds what this reader does not support.
    #[error("{}: {message}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        message: String,
    },
    /// Rows that cannot be used, and no leave to skip them.
    #[error(
        "{total} of {num_rows} rows cannot be used:{}mend them, or set data.skip_bad_rows = true (--skip-bad-rows) to leave them out",
        Listing { first, total: *total }
    )]
    BadRows {
        /// The first of them.
        first: Vec<BadRow>,
        /// How many there are.
        total: u64,
        /// Rows read, good and bad.
        num_rows: u64,
    },
    /// Not a single row to train on.
    #[error("no rows are left to use in {files}: {reason}")]
    Empty {
        /// The files.
        files: String,
        /// Where the rows went.
        reason: String,
    },
    /// Feedback of one kind only, for an objective that needs both.
    #[error(
        "all {num_rows} rows are {}, none is {}: {}; add {} rows, check data.columns.label, or move data.label_threshold",
        label_word(*found), label_word(opposite(*found)), needs_both(*objective), label_word(opposite(*found))
    )]
    OneClass {
        /// The class that all rows have.
        found: Label,
        /// How many there are.
        num_rows: u64,
        /// What they were to be trained with.
        objective: ObjectiveName,
    },
    /// A tokenizer file that is missing or unreadable.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        message: String,
    },
    /// A chat template that does not parse.
    #[error("{}: the chat template cannot be used: {message}", path.display())]
    Template {
        /// The file that holds it.
        path: PathBuf,
        /// The template engine's words, with the place.
        message: String,
    },
    /// A prompt that the model's tokenizer or chat template refuses.
    #[error("{}: the prompt cannot be tokenised: {message}", dir.display())]
    Prompt {
        /// The model directory.
        dir: PathBuf,
        /// What was found and expected, or the template's own words.
        message: String,
    },
    /// Rows of messages, but a model without a chat template.
    #[error(
        "{}: the model has no chat template (neither chat_template.jinja nor a chat_template in tokenizer_config.json), but the rows hold messages; add a template or use rows of plain text",
        dir.display()
    )]
    NoChatTemplate {
        /// The model directory.
        dir: PathBuf,
    },
    /// Rows of plain text, but a tokenizer without an end token.
    #[error(
        "{}: the tokenizer names no eos_token in tokenizer_config.json, but completions of plain text must end with one; add it",
        dir.display()
    )]
    NoEosToken {
        /// The model directory.
        dir: PathBuf,
    },
    /// A token store that cannot be written or read.
    #[error("{}: the token store {action} failed: {source}", path.display())]
    Store {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// A token store that does not hold what it says.
    #[error("{}: the token store is damaged: {message}", path.display())]
    DamagedStore {
        /// The directory of the store.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
}

impl DataError {
    /// Exit code of a program that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoFiles { .. }
            | Self::UnknownFormat { .. }
            | Self::RemotePath { .. }
            | Self::Tokenizer { .. }
            | Self::Template { .. }
            | Self::NoChatTemplate { .. }
            | Self::NoEosToken { .. } => ExitCode::Usage,
            Self::Read { .. }
            | Self::Decode { .. }
            | Self::BadRows { .. }
            | Self::Empty { .. }
            | Self::Prompt { .. }
            | Self::OneClass { .. }
            | Self::DamagedStore { .. } => ExitCode::Corrupt,
            Self::Store { .. } => ExitCode::Storage,
        }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// The class in words.
pub(crate) fn label_word(label: Label) -> &'static str {
    if label.is_desirable() { "desirable" } else { "undesirable" }
}

/// What an objective does with one class that the other has to hold against.
fn needs_both(objective: ObjectiveName) -> &'static str {
    match objective {
        ObjectiveName::Kto => "kto weighs the one class against the other",
        ObjectiveName::ApoZeroUnpaired => {
            "apo_zero_unpaired raises the one class and lowers the other, and one alone only drifts"
        }
    }
}

fn opposite(label: Label) -> Label {
    Label::from(!label.is_desirable())
}

struct Listing<'a> {
    first: &'a [BadRow],
    total: u64,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for row in self.first {
            writeln!(f, "  {row}")?;
        }
        let more = self.total.saturating_sub(self.first.len() as u64);
        if more > 0 {
            writeln!(f, "  and {more} more")?;
        }
        Ok(())
    }
}
