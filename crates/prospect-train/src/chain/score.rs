//! Passes without gradient.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, s sequences, h hidden width.

use std::ops::Range;

use prospect_core::Sequence;
use prospect_shape::PassCost;
use tch::Tensor;

use super::Chain;
use crate::TrainError;
use crate::batch::PackedBatch;
use crate::head::{self, TILE_BYTES, Visits};
use crate::readback::Readback;
use crate::sharing::{Pass, first_with_prompt};

/// What passes give, once it is read.
pub(crate) struct Scores {
    /// Place of each sequence, in the order of the passes.
    indices: Vec<usize>,
    /// Where the log-probabilities of their completions, in nats, are among the numbers that are
    /// read, in the same order.
    log_probs: Range<usize>,
    /// Prompt tokens that were not computed, because another sequence of the pass has the prompt.
    pub(crate) num_shared_tokens: u64,
}

/// Log-probabilities of the completions that the passes name, without gradient, for `readback`.
pub(crate) fn score_passes<'p>(
    chain: &Chain<'_>,
    sequences: &[&Sequence],
    passes: impl IntoIterator<Item = &'p Pass>,
    readback: &mut Readback,
) -> Result<Scores, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let (mut indices, mut num_shared_tokens) = (Vec::new(), 0);
    let mut log_probs = readback.end()..readback.end();
    for pass in passes {
        let batch: Vec<&Sequence> = pass.indices.iter().map(|&idx| sequences[idx]).collect();
        indices.extend_from_slice(&pass.indices);
        let batch = PackedBatch::without_gradient(chain.model, &batch, pass.prompts)?;
        num_shared_tokens += batch.num_shared_tokens;
        log_probs.end = readback.push(score_batch(chain, &batch)?)?.end;
    }
    Ok(Scores { indices, log_probs, num_shared_tokens })
}

/// f64 `[S]`: the log-probability of each completion.
fn score_batch(chain: &Chain<'_>, batch: &PackedBatch) -> Result<Tensor, TrainError> {
    let mut hidden_th = chain.visit(0, Some(1), |model| Ok(model.embed(&batch.token_ids_t)?))?;
    let num_layers = chain.model.config().num_layers;
    for idx in 0..num_layers {
        hidden_th = chain.visit(idx + 1, Some(idx + 2), |model| {
            Ok(model.block(idx, &hidden_th, &batch.layout)?)
        })?;
    }
    let final_nh = hidden_th.f_index_select(0, &batch.positions_n)?;
    drop(hidden_th);
    let visit = chain.visit(num_layers + 1, None, |model| {
        let normed_nh = model.final_norm(&final_nh)?;
        let weight_vh = model.head_weight();
        head::log_probs(&normed_nh, &weight_vh, &batch.targets_n, Visits::Once, TILE_BYTES)
    })?;
    chain.end_pass()?;
    batch.sum_per_sequence(&visit.log_probs_n)
}

// === impl Scores ===

impl Scores {
    /// Place and log-probability of each sequence, out of all numbers that were read.
    pub(crate) fn pairs<'a>(
        &'a self,
        values: &'a [f64],
    ) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.indices.iter().copied().zip(values[self.log_probs.clone()].iter().copied())
    }

    /// The log-probabilities of so many sequences, all of which were in the passes, by place.
    pub(crate) fn in_order(&self, num_sequences: usize, values: &[f64]) -> Vec<f64> {
        assert_eq!(self.indices.len(), num_sequences, "the passes hold every sequence once");
        let mut log_probs = vec![f64::NAN; num_sequences];
        for (idx, log_prob) in self.pairs(values) {
            log_probs[idx] = log_prob;
        }
        log_probs
    }

    /// Floating-point operations that these passes need at `cost`, each prompt counted once,
    /// however they were packed.
    pub(crate) fn needed_flops(&self, cost: &PassCost, sequences: &[&Sequence]) -> f64 {
        let scored: Vec<&Sequence> = self.indices.iter().map(|&idx| sequences[idx]).collect();
        let places = first_with_prompt(&scored).into_iter().enumerate();
        places
            .map(|(place, first)| match place == first {
                true => cost.scored(scored[place]),
                false => cost.scored_behind_prompt(scored[place]),
            })
            .sum()
    }
}
