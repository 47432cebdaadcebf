//! The work of one rank in one step, complete: what is not in here, the rank
//! does not know.

use serde::{Deserialize, Serialize};

use crate::{Label, RowId, Step};

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
    /// Sequences with labels.
    pub targets: Vec<Target>,
    /// Sequences that estimate the reference point.
    pub mismatched: Vec<Sequence>,
    /// Which targets are computed together, in order.
    pub target_microbatches: Vec<Microbatch>,
    /// Which mismatched sequences are computed together, in order.
    pub mismatched_microbatches: Vec<Microbatch>,
    /// Save a checkpoint after the step.
    pub checkpoint_after: bool,
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
