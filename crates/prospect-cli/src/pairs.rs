//! Mismatched pairs over a whole file: prompts keep their place, completions
//! are rotated by one, `(x_1, y_N), (x_2, y_1), …`, as in a global batch.

/// What tells whether two rows make a mismatched pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHashes {
    /// Hash of the prompt.
    pub prompt: u64,
    /// Hash of the completion.
    pub completion: u64,
}

/// For each row the row whose completion it is paired with. A pair whose prompts
/// or completions are the same is none: the next rotation is taken for it.
/// `None` where no rotation helps.
pub fn partners(rows: &[RowHashes]) -> Vec<Option<usize>> {
    let num_rows = rows.len();
    (0..num_rows)
        .map(|row| {
            (1..num_rows).map(|rotation| (row + num_rows - rotation) % num_rows).find(|&other| {
                rows[other].prompt != rows[row].prompt
                    && rows[other].completion != rows[row].completion
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
