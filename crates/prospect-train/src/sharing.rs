//! Which sequences of passes without gradient are computed together. The tokens of a prompt are
//! computed once for all sequences of a pass that begin with it: the first of them is computed
//! whole, and each other's completion attends to the first one's prompt and to itself.
//!
//! The rule depends on the sequences and the budget alone: whoever packs them gets the same passes.

use std::cmp::Reverse;
use std::collections::HashMap;

use prospect_core::{Sequence, ShardPart};

/// Most keys in a pass for each token of its budget. A sequence's keys are copied behind those of
/// its prompt, so that a long prompt with very many completions would take more memory than all
/// else in the pass.
const KEYS_PER_TOKEN: usize = 4;

/// What the sequences of a pass do with a prompt that several of them have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompts {
    /// Each computes its own, as in a pass with gradient.
    Apart,
    /// The first one computes it for all.
    Shared,
}

/// Sequences that are computed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Their places in the list that was packed.
    pub(crate) indices: Vec<usize>,
    pub(crate) prompts: Prompts,
}

/// Sequences with one prompt, and what they cost in a pass.
struct Chunk {
    indices: Vec<usize>,
    num_tokens: usize,
    num_keys: usize,
}

/// Packs those of the sequences that `indices` names into passes that compute at most `budget`
/// tokens, but at least one sequence. Sequences with one prompt come together; they are cut into
/// chunks where they are too many for a pass, and each chunk goes to the first pass that has room
/// for it, largest first.
pub(crate) fn pack(
    sequences: &[&Sequence],
    indices: impl IntoIterator<Item = usize>,
    budget: usize,
) -> Vec<Pass> {
    let max_keys = budget.saturating_mul(KEYS_PER_TOKEN);
    let indices: Vec<usize> = indices.into_iter().collect();
    let named: Vec<&Sequence> = indices.iter().map(|&idx| sequences[idx]).collect();
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); named.len()];
    for (place, first) in first_with_prompt(&named).into_iter().enumerate() {
        groups[first].push(indices[place]);
    }
    let mut chunks: Vec<Chunk> =
        groups.into_iter().flat_map(|group| cut(sequences, group, (budget, max_keys))).collect();
    chunks.sort_by_key(|chunk| Reverse(chunk.num_tokens));

    let mut passes: Vec<Chunk> = Vec::new();
    for chunk in chunks {
        let has_room = |pass: &&mut Chunk| {
            pass.num_tokens + chunk.num_tokens <= budget
                && pass.num_keys + chunk.num_keys <= max_keys
        };
        match passes.iter_mut().find(has_room) {
            Some(pass) => pass.add(chunk),
            None => passes.push(chunk),
        }
    }
    let shared = |pass: Chunk| Pass { indices: pass.indices, prompts: Prompts::Shared };
    passes.into_iter().map(shared).collect()
}

/// The most tokens that a part's microbatches hold: what one pass of it may compute.
pub(crate) fn budget(part: &ShardPart) -> usize {
    let target = |&idx: &u32| part.targets[idx as usize].sequence.num_tokens();
    let mismatched = |&idx: &u32| part.mismatched[idx as usize].num_tokens();
    let targets = part.target_microbatches.iter().map(|m| m.iter().map(target).sum());
    let others = part.mismatched_microbatches.iter().map(|m| m.iter().map(mismatched).sum());
    targets.chain(others).max().unwrap_or(0)
}

/// For each sequence, the place of the first one that has its prompt; its own where that is it.
pub(crate) fn first_with_prompt(sequences: &[&Sequence]) -> Vec<usize> {
    let mut first = HashMap::new();
    let places = sequences.iter().enumerate();
    places.map(|(idx, sequence)| *first.entry(prompt(sequence)).or_insert(idx)).collect()
}

fn prompt(sequence: &Sequence) -> &[u32] {
    &sequence.token_ids[..sequence.completion_start as usize]
}

/// Cuts sequences with one prompt into chunks that a pass has room for.
fn cut(
    sequences: &[&Sequence],
    group: Vec<usize>,
    (budget, max_keys): (usize, usize),
) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for idx in group {
        let num_keys = sequences[idx].num_tokens();
        let num_tokens = sequences[idx].num_completion_tokens();
        match chunks.last_mut() {
            Some(last)
                if last.num_tokens + num_tokens <= budget
                    && last.num_keys + num_keys <= max_keys =>
            {
                last.add(Chunk { indices: vec![idx], num_tokens, num_keys });
            }
            // Whole, so that its tokens are all its keys.
            _ => chunks.push(Chunk { indices: vec![idx], num_tokens: num_keys, num_keys }),
        }
    }
    chunks
}

// === impl Chunk ===

impl Chunk {
    fn add(&mut self, other: Self) {
        self.indices.extend(other.indices);
        self.num_tokens += other.num_tokens;
        self.num_keys += other.num_keys;
    }
}

#[cfg(test)]
mod tests;
