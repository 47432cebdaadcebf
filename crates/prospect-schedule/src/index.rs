//! What the planner knows of a row. Tokens stay where they are.

use prospect_core::{Label, RowId};

/// The rows of a data set, numbered from 0 without gaps.
pub trait RowIndex {
    /// Number of rows.
    fn num_rows(&self) -> u64;
    /// Tokens of the row's prompt.
    fn prompt_len(&self, row: RowId) -> u32;
    /// Tokens of the row's completion.
    fn completion_len(&self, row: RowId) -> u32;
    /// What the feedback says.
    fn label(&self, row: RowId) -> Label;
    /// Hash of the prompt; equal hashes count as equal prompts.
    fn prompt_hash(&self, row: RowId) -> u64;
    /// Hash of the completion; equal hashes count as equal completions.
    fn completion_hash(&self, row: RowId) -> u64;
}

/// All that the planner asks about one row, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFacts {
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// Tokens of the completion.
    pub completion_len: u32,
    /// What the feedback says.
    pub label: Label,
    /// Hash of the prompt.
    pub prompt_hash: u64,
    /// Hash of the completion.
    pub completion_hash: u64,
}

/// An index that lies in memory, for tests and benchmarks.
impl RowIndex for Vec<RowFacts> {
    fn num_rows(&self) -> u64 {
        self.len() as u64
    }

    fn prompt_len(&self, row: RowId) -> u32 {
        self[row.0 as usize].prompt_len
    }

    fn completion_len(&self, row: RowId) -> u32 {
        self[row.0 as usize].completion_len
    }

    fn label(&self, row: RowId) -> Label {
        self[row.0 as usize].label
    }

    fn prompt_hash(&self, row: RowId) -> u64 {
        self[row.0 as usize].prompt_hash
    }

    fn completion_hash(&self, row: RowId) -> u64 {
        self[row.0 as usize].completion_hash
    }
}
