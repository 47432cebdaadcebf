//! Mismatched pairs: each row's prompt with the completion of another row, the
//! one before it in the global batch where that is possible (TRL's direction).

#[cfg(test)]
mod tests;

use prospect_core::RowId;

use crate::{EpochOrder, RowIndex};

/// Rotations by whole batches that are tried outside the batch before the
/// witnesses, so that the rows of one batch do not all get one completion.
const OUTSIDE_ROTATIONS: u64 = 32;

/// The completions that the rows of a batch are paired with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partners {
    /// Row of the completion, for each slot; absent where nothing in the data fits.
    pub(crate) rows: Vec<Option<RowId>>,
    /// Pairs that took a later rotation than the first.
    pub(crate) num_rotated: u32,
    /// Pairs whose completion is of a row outside the batch.
    pub(crate) num_outside: u32,
    /// Rows without a pair.
    pub(crate) num_unpaired: u32,
}

/// What makes two rows a pair or not.
#[derive(Clone, Copy, Debug)]
struct Key {
    prompt: u64,
    completion: u64,
}

/// A few rows that stand for many: a row that makes a mismatched pair with any
/// of the many makes one with a witness. Never more than four are needed
/// (Bollobás's inequality for sets of one prompt and one completion), and three
/// of different prompts and completions are always enough.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witnesses(Vec<(RowId, Key)>);

/// Partners of the rows at `batch`, positions of the epoch's order. Costs the
/// square of the batch at worst (all prompts equal but one), its size as a rule.
pub(crate) fn partners(
    order: &EpochOrder,
    index: &dyn RowIndex,
    rows: &[RowId],
    start: u64,
) -> Partners {
    let keys: Vec<Key> = rows.iter().map(|&row| Key::of(index, row)).collect();
    let within = Witnesses::of(index, rows.iter().copied());
    let mut partners = Partners::default();
    for (slot, &key) in keys.iter().enumerate() {
        let inside = within.find(key).and_then(|_| rotation(&keys, slot));
        if let Some(rotation) = inside {
            let other = (slot + rows.len() - rotation) % rows.len();
            partners.num_rotated += u32::from(rotation > 1);
            partners.rows.push(Some(rows[other]));
            continue;
        }
        let outside = outside(order, index, key, start + slot as u64);
        match outside {
            Some(_) => partners.num_outside += 1,
            None => partners.num_unpaired += 1,
        }
        partners.rows.push(outside);
    }
    partners
}

/// The smallest rotation that gives the slot a mismatched completion of its batch.
fn rotation(keys: &[Key], slot: usize) -> Option<usize> {
    (1..keys.len()).find(|rotation| {
        let other = (slot + keys.len() - rotation) % keys.len();
        keys[slot].is_mismatched(keys[other])
    })
}

/// A mismatched completion from anywhere in the epoch: the same slot of earlier
/// batches, else a witness.
fn outside(order: &EpochOrder, index: &dyn RowIndex, key: Key, position: u64) -> Option<RowId> {
    let witness = order.witnesses().find(key)?;
    let num_rows = order.num_rows();
    let batch_size = order.batch_size() % num_rows;
    (1..=OUTSIDE_ROTATIONS)
        .map(|rotation| {
            let back = rotation * batch_size % num_rows;
            order.row(position + num_rows - back)
        })
        .find(|&row| key.is_mismatched(Key::of(index, row)))
        .or(Some(witness))
}

impl Key {
    fn of(index: &dyn RowIndex, row: RowId) -> Self {
        Self { prompt: index.prompt_hash(row), completion: index.completion_hash(row) }
    }

    fn is_mismatched(self, other: Self) -> bool {
        self.prompt != other.prompt && self.completion != other.completion
    }
}

impl Witnesses {
    /// Chooses witnesses for `rows`; reads no further than it must.
    pub(crate) fn of(index: &dyn RowIndex, rows: impl Iterator<Item = RowId>) -> Self {
        let mut witnesses = Self::default();
        for row in rows {
            if witnesses.is_complete() {
                break;
            }
            let key = Key::of(index, row);
            if witnesses.lacks(key) {
                witnesses.0.push((row, key));
            }
        }
        witnesses
    }

    /// The first witness that makes a mismatched pair with `key`.
    fn find(&self, key: Key) -> Option<RowId> {
        self.0.iter().find(|(_, witness)| witness.is_mismatched(key)).map(|&(row, _)| row)
    }

    /// Whether every conceivable row finds a partner. One prompt and one completion can
    /// rule out at most two of three rows that differ in both, and it takes the pair of one
    /// witness's prompt and another's completion to rule out any two.
    fn is_complete(&self) -> bool {
        self.0.iter().all(|(_, by_prompt)| {
            self.0.iter().all(|(_, by_completion)| {
                let probe = Key { prompt: by_prompt.prompt, completion: by_completion.completion };
                self.find(probe).is_some()
            })
        }) && !self.0.is_empty()
    }

    /// Whether some row could be paired with `key` and with none of the witnesses.
    fn lacks(&self, key: Key) -> bool {
        // A row that no witness fits shares a prompt or a completion with each of them, so
        // it is enough to look at their prompts and completions, and at new ones.
        let prompts = self.0.iter().map(|(_, witness)| Some(witness.prompt)).chain([None]);
        prompts.into_iter().any(|prompt| {
            let completions = self.0.iter().map(|(_, w)| Some(w.completion)).chain([None]);
            completions.into_iter().any(|completion| {
                prompt != Some(key.prompt)
                    && completion != Some(key.completion)
                    && self.0.iter().all(|(_, witness)| {
                        prompt == Some(witness.prompt) || completion == Some(witness.completion)
                    })
            })
        })
    }
}
