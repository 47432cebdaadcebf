//! A token store as the planner sees it.

use prospect_core::{Label, RowId, Sequence, Target};
use prospect_data::TokenStore;
use prospect_schedule::RowIndex;

/// The rows of a token store.
#[derive(Debug)]
pub(crate) struct Rows {
    store: TokenStore,
    /// Weight λ of desirable and of undesirable rows.
    weights: (f64, f64),
    /// Tokens kept of a sequence.
    max_length: usize,
}

impl Rows {
    pub(crate) fn new(store: TokenStore, weights: (f64, f64), max_length: u32) -> Self {
        Self { store, weights, max_length: max_length as usize }
    }

    /// A row with its label and the product of its class's weight and its own.
    pub(crate) fn target(&self, row: RowId) -> Target {
        let view = self.store.row(row);
        let class = if view.label.is_desirable() { self.weights.0 } else { self.weights.1 };
        let sequence = self.sequence(row, row);
        Target { sequence, label: view.label, weight: class * view.weight }
    }

    /// The prompt of one row with the completion of another, cut to the greatest length.
    pub(crate) fn sequence(&self, prompt_row: RowId, completion_row: RowId) -> Sequence {
        let prompt = self.store.row(prompt_row).prompt;
        let completion = self.store.row(completion_row);
        let completion = completion.completion_after(prompt.len(), self.max_length);
        let token_ids = [prompt, completion].concat();
        Sequence {
            prompt_row,
            completion_row,
            completion_start: prompt.len() as u32,
            token_ids,
            reference_log_prob: None,
        }
    }
}

impl RowIndex for Rows {
    fn num_rows(&self) -> u64 {
        self.store.len()
    }

    fn prompt_len(&self, row: RowId) -> u32 {
        self.store.row(row).prompt.len() as u32
    }

    fn completion_len(&self, row: RowId) -> u32 {
        self.store.row(row).completion.len() as u32
    }

    fn label(&self, row: RowId) -> Label {
        self.store.row(row).label
    }

    fn prompt_hash(&self, row: RowId) -> u64 {
        self.store.row(row).prompt_hash
    }

    fn completion_hash(&self, row: RowId) -> u64 {
        self.store.row(row).completion_hash
    }
}
