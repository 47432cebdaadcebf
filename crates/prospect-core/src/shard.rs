//! The work of one rank in one step, complete: what is not in here, the rank
//! does not know.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Label, Rank, RowId, Step};

/// Training or evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardKind {
    /// A step that moves the weights.
    #[default]
    Train,
    /// A pass without gradient.
    Eval,
}

/// A prompt followed by a completion, as tokens. In a mismatched sequence the
/// two come from different rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Row whose prompt it is.
    pub prompt_row: RowId,
    /// Row whose completion it is.
    pub completion_row: RowId,
    /// Prompt tokens, then completion tokens.
    pub token_ids: Vec<u32>,
    /// Index of the completion's first token; at least 1.
    pub completion_start: u32,
    /// Sum of the completion's log-probabilities under the reference model, in
    /// nats, where it is known.
    pub reference_log_prob: Option<f64>,
}

/// A sequence with its label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The tokens.
    pub sequence: Sequence,
    /// What the feedback says.
    pub label: Label,
    /// Weight λ of its loss term: the class's weight times the row's own.
    pub weight: f64,
}

/// Indices of sequences that are packed and computed together.
pub type Microbatch = Vec<u32>;

/// All that one rank does in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// The step, from 1. For evaluation, the step after which it is done.
    pub step: Step,
    /// Training or evaluation.
    pub kind: ShardKind,
    /// Number of this shard among those of one evaluation; 0 in training.
    pub eval_index: u32,
    /// Epochs completed when this step is done.
    pub epoch: f64,
    /// Examples in the global batch, the one divisor of the loss.
    pub num_examples_global: u32,
    /// Mismatched pairs in the global batch.
    pub num_pairs_global: u32,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Save a checkpoint after the step.
    pub checkpoint_after: bool,
    /// The rank's parts of the global batch, ascending; at least one.
    pub parts: Vec<ShardPart>,
}

/// One part of a global batch: what is computed together in a fixed order, whoever does it.
/// With the fast reduction every rank has one part, with the canonical one the number of parts
/// does not depend on the number of ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardPart {
    /// Place among the parts of the global batch, from 0.
    pub part: u32,
    /// Sequences with labels.
    pub targets: Vec<Target>,
    /// Sequences that estimate the reference point.
    pub mismatched: Vec<Sequence>,
    /// Which targets are computed together, in order.
    pub target_microbatches: Vec<Microbatch>,
    /// Which mismatched sequences are computed together, in order.
    pub mismatched_microbatches: Vec<Microbatch>,
}

/// The parts that a rank does: neighbours, as even as can be. Every part belongs to one rank;
/// every rank has one where there are at least as many parts as ranks.
///
/// # Panics
/// If the rank is not in the world.
pub fn parts_of_rank(rank: Rank, world_size: u32, num_parts: u32) -> Range<u32> {
    assert!(rank.0 < world_size, "rank {rank} is not in a world of {world_size}");
    let (rank, world_size, parts) =
        (u64::from(rank.0), u64::from(world_size), u64::from(num_parts));
    // Below `num_parts`, which is a u32.
    let begin = |rank: u64| (rank * parts).div_ceil(world_size) as u32;
    begin(rank)..begin(rank + 1)
}

impl Sequence {
    /// Number of tokens, prompt and completion.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Number of completion tokens.
    pub fn num_completion_tokens(&self) -> usize {
        self.token_ids.len() - self.completion_start as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_belongs_to_one_rank() {
        for world_size in 1..9 {
            for num_parts in world_size..17 {
                let ranges: Vec<_> = (0..world_size)
                    .map(|rank| parts_of_rank(Rank(rank), world_size, num_parts))
                    .collect();
                let all: Vec<u32> = ranges.iter().cloned().flatten().collect();
                assert_eq!(all, (0..num_parts).collect::<Vec<_>>());
                let most = num_parts.div_ceil(world_size) as usize;
                assert!(ranges.iter().all(|range| (1..=most).contains(&range.len())));
            }
        }
    }
}
