//! Passes without gradient.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, s sequences, h hidden width.

use std::ops::Range;

use prospect_core::Sequence;
use tch::Tensor;

use super::Chain;
use crate::TrainError;
use crate::batch::PackedBatch;
use crate::flops::PassCost;
use crate::head::{self, TILE_BYTES, Visits};
use crate::readback::Readback;
use crate::sharing::{Pass, first_with_prompt};

/// What passes gave.
#[derive(Default)]
pub(crate) struct Scores {
    /// Place of each sequence, in the order of the passes.
    indices: Vec<usize>,
    /// Where their log-probabilities are among the numbers that are read.
    log_probs: Range<usize>,
    /// Prompt tokens that were not computed, because another sequence of the pass has the prompt.
    pub(crate) num_shared_tokens: u64,
}

/// Log-probabilities of the completions that the passes name, without gradient. They stay on the
/// device until `readback` is read.
pub(crate) fn score_passes<'p>(
    chain: &Chain<'_>,
    sequences: &[&Sequence],
    passes: impl IntoIterator<Item = &'p Pass>,
    readback: &mut Readback,
) -> Result<Scores, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let mut scores = Scores { log_probs: readback.len()..readback.len(), ..Scores::default() };
    for pass in passes {
        let batch: Vec<&Sequence> = pass.indices.iter().map(|&idx| sequences[idx]).collect();
        scores.indices.extend_from_slice(&pass.indices);
        let batch = PackedBatch::without_gradient(chain.model, &batch, pass.prompts)?;
        scores.num_shared_tokens += batch.num_shared_tokens;
        scores.log_probs.end = readback.push(score_batch(chain, &batch)?)?.end;
    }
    Ok(scores)
}

/// f64 `[S]`: the log-probability of each completion, in nats.
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
    /// Each sequence's place and log-probability, given the numbers that were read.
    pub(crate) fn log_probs<'v>(
        &'v self,
        values: &'v [f64],
    ) -> impl Iterator<Item = (usize, f64)> + 'v {
        self.indices.iter().copied().zip(values[self.log_probs.clone()].iter().copied())
    }

    /// The log-probabilities by place, where all sequences were in the passes.
    pub(crate) fn in_order(&self, values: &[f64]) -> Vec<f64> {
        let mut log_probs = vec![f64::NAN; self.indices.len()];
        for (idx, log_prob) in self.log_probs(values) {
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
