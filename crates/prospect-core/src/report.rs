//! What a rank tells about a step: sums and counts, never means.

use serde::{Deserialize, Serialize};

use crate::{Rank, RowId, ShardKind, Step};

/// Sums over the sequences of one part, to be added over parts in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepSums {
    /// Weighted loss terms.
    pub loss: f64,
    /// Desirable examples.
    pub num_desirable: u64,
    /// Undesirable examples.
    pub num_undesirable: u64,
    /// Rewards β·log-ratio of desirable examples.
    pub reward_desirable: f64,
    /// Rewards of undesirable examples.
    pub reward_undesirable: f64,
    /// Policy log-probabilities of desirable examples, in nats.
    pub log_prob_desirable: f64,
    /// Policy log-probabilities of undesirable examples, in nats.
    pub log_prob_undesirable: f64,
    /// Examples on the right side of the reference point.
    pub num_correct: u64,
    /// 4σ(u)(1−σ(u)), with u the argument of the value function.
    pub saturation: f64,
    /// Tokens of the target sequences.
    pub num_tokens: u64,
    /// Tokens of the mismatched sequences.
    pub num_mismatched_tokens: u64,
    /// Prompt tokens that passes without gradient did not compute again, because another sequence
    /// of the same pass has the same prompt.
    pub num_shared_tokens: u64,
    /// Floating-point operations that the mathematics of the step needs.
    pub flops: f64,
}

/// Sums over the sequences of one part of the global batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartSums {
    /// Place among the parts, from 0.
    pub part: u32,
    /// Its sums.
    pub sums: StepSums,
}

/// Seconds that a rank spent in the phases of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// Passes without gradient: the reference, and the policy on mismatched pairs.
    pub scoring: f64,
    /// Waiting for the reference point.
    pub reference_point: f64,
    /// Policy forward and backward passes.
    pub forward_backward: f64,
    /// Waiting for gradients to be summed over ranks, also in the middle of a backward pass.
    pub all_reduce: f64,
    /// Waiting for weights that other ranks hold; a part of the phases above.
    pub gather: f64,
    /// Between the end of the step before and the beginning of this one, but for its update: waiting
    /// for its commit and for this step's shard, where ranks share weights that of every rank, and
    /// copying weights for a checkpoint.
    pub commit: f64,
    /// The norm, and clipping and update of the step before.
    pub optimizer: f64,
    /// The whole step, from the end of the one before in the same world.
    pub total: f64,
}

/// A log-probability under the reference model that was computed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceValue {
    /// Row whose prompt it is.
    pub prompt_row: RowId,
    /// Row whose completion it is.
    pub completion_row: RowId,
    /// Sum over the completion's tokens, in nats.
    pub log_prob: f64,
}

/// What one rank did in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The rank.
    pub rank: Rank,
    /// The step.
    pub step: Step,
    /// Training or evaluation.
    pub kind: ShardKind,
    /// Number of the evaluation shard; 0 in training.
    pub eval_index: u32,
    /// Sums over the rank's sequences, by part, ascending.
    pub parts: Vec<PartSums>,
    /// Norm of the global gradient before clipping, the same on every rank; 0 in evaluation.
    pub grad_norm: f64,
    /// Reference values that were computed, for the coordinator to keep.
    pub reference_values: Vec<ReferenceValue>,
    /// Where the time went.
    pub phase_seconds: PhaseSeconds,
    /// Highest memory use so far, of the device or (on CPU) of the process.
    pub peak_memory_bytes: u64,
}

impl PhaseSeconds {
    /// Seconds in which the device had nothing to do.
    pub fn waiting(&self) -> f64 {
        self.reference_point + self.all_reduce + self.gather + self.commit
    }
}

impl StepSums {
    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        self.num_desirable += other.num_desirable;
        self.num_undesirable += other.num_undesirable;
        self.reward_desirable += other.reward_desirable;
        self.reward_undesirable += other.reward_undesirable;
        self.log_prob_desirable += other.log_prob_desirable;
        self.log_prob_undesirable += other.log_prob_undesirable;
        self.num_correct += other.num_correct;
        self.saturation += other.saturation;
        self.num_tokens += other.num_tokens;
        self.num_mismatched_tokens += other.num_mismatched_tokens;
        self.num_shared_tokens += other.num_shared_tokens;
        self.flops += other.flops;
    }

    /// Number of examples.
    pub fn num_examples(&self) -> u64 {
        self.num_desirable + self.num_undesirable
    }
}
