//! Mismatched pairs over a whole file, which is one batch: prompts keep their
//! place, completions are rotated by one, `(x_1, y_N), (x_2, y_1), …`. The rule
//! is the planner's.

use std::collections::HashMap;
use std::hash::Hash;

/// What tells whether two rows make a mismatched pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowHashes {
    /// Hash of the prompt.
    pub prompt: u64,
    /// Hash of the completion.
    pub completion: u64,
}

/// For each row the row whose completion it is paired with. A pair whose prompts
/// or completions are the same is none: the next rotation is taken for it.
/// `None` where no rotation helps. Rows in a row with one prompt or one completion
/// are passed over at once, so that the time is that of a few looks at each row as a rule.
pub fn partners(rows: &[RowHashes]) -> Vec<Option<usize>> {
    let num_rows = rows.len();
    let prompts = run_lengths(rows, |row| row.prompt);
    let completions = run_lengths(rows, |row| row.completion);
    let has_partner = has_partner(rows);
    let partner = |row: usize| {
        let mut rotation = 1;
        while rotation < num_rows {
            let other = (row + num_rows - rotation) % num_rows;
            if rows[other].prompt == rows[row].prompt {
                rotation += prompts[other];
            } else if rows[other].completion == rows[row].completion {
                rotation += completions[other];
            } else {
                return Some(other);
            }
        }
        None
    };
    (0..num_rows).map(|row| if has_partner(rows[row]) { partner(row) } else { None }).collect()
}

/// How many rows back from each one, itself included, have its key; the last row comes before
/// the first.
fn run_lengths(rows: &[RowHashes], key: impl Fn(&RowHashes) -> u64) -> Vec<usize> {
    let num_rows = rows.len();
    let mut lengths = vec![1; num_rows];
    // The second time around the run at the end of the file is known.
    for row in (0..num_rows).chain(0..num_rows) {
        let before = (row + num_rows - 1) % num_rows;
        if num_rows > 1 && key(&rows[before]) == key(&rows[row]) {
            lengths[row] = (lengths[before] + 1).min(num_rows);
        }
    }
    lengths
}

/// Tells whether any row makes a mismatched pair with a row, by counting those that do not.
fn has_partner(rows: &[RowHashes]) -> impl Fn(RowHashes) -> bool {
    let prompts = counts(rows.iter().map(|row| row.prompt));
    let completions = counts(rows.iter().map(|row| row.completion));
    let both = counts(rows.iter().copied());
    let num_rows = rows.len();
    move |row| prompts[&row.prompt] + completions[&row.completion] - both[&row] < num_rows
}

fn counts<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    let mut counts = HashMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests;
