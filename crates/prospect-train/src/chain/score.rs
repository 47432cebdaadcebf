//! Passes without gradient.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, h hidden width.

use prospect_core::Sequence;
use tch::{Device, Kind, Tensor};

use super::Chain;
use crate::TrainError;
use crate::batch::PackedBatch;
use crate::flops::PassCost;
use crate::head::{self, TILE_BYTES, Visits};
use crate::sharing::{Pass, first_with_prompt};

/// What passes gave.
pub(crate) struct Scores {
    /// Place of each sequence and the log-probability of its completion in nats, in the order of
    /// the passes.
    pub(crate) log_probs: Vec<(usize, f64)>,
    /// Prompt tokens that were not computed, because another sequence of the pass has the prompt.
    pub(crate) num_shared_tokens: u64,
}

/// Log-probabilities of the completions that the passes name, without gradient. The device is
/// read once, behind the last pass.
pub(crate) fn score_passes<'p>(
    chain: &Chain<'_>,
    sequences: &[&Sequence],
    passes: impl IntoIterator<Item = &'p Pass>,
) -> Result<Scores, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let (mut log_probs_n, mut indices) = (Vec::new(), Vec::new());
    let mut num_shared_tokens = 0;
    for pass in passes {
        let batch: Vec<&Sequence> = pass.indices.iter().map(|&idx| sequences[idx]).collect();
        indices.extend_from_slice(&pass.indices);
        let batch = PackedBatch::without_gradient(chain.model, &batch, pass.prompts)?;
        num_shared_tokens += batch.num_shared_tokens;
        log_probs_n.push(score_batch(chain, &batch)?);
    }
    if log_probs_n.is_empty() {
        return Ok(Scores { log_probs: Vec::new(), num_shared_tokens });
    }
    let all_n = Tensor::f_cat(&log_probs_n, 0)?.f_to_device(Device::Cpu)?;
    let values = Vec::<f64>::try_from(&all_n.f_to_kind(Kind::Double)?)?;
    let lengths: Vec<usize> =
        indices.iter().map(|&idx| sequences[idx].num_completion_tokens()).collect();
    let log_probs = indices.into_iter().zip(sums(&values, &lengths)).collect();
    Ok(Scores { log_probs, num_shared_tokens })
}

/// f32 `[N]`: the log-probability of each completion token.
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
    Ok(visit.log_probs_n)
}

/// Sums of neighbours, so many at a time.
pub(crate) fn sums(values: &[f64], lengths: &[usize]) -> Vec<f64> {
    let mut rest = values;
    let sum = |&length: &usize| {
        let (own, others) = rest.split_at(length);
        rest = others;
        own.iter().sum()
    };
    lengths.iter().map(sum).collect()
}

// === impl Scores ===

impl Scores {
    /// The log-probabilities of so many sequences, all of which were in the passes, by place.
    pub(crate) fn in_order(&self, num_sequences: usize) -> Vec<f64> {
        assert_eq!(self.log_probs.len(), num_sequences, "the passes hold every sequence once");
        let mut log_probs = vec![f64::NAN; num_sequences];
        for &(idx, log_prob) in &self.log_probs {
            log_probs[idx] = log_prob;
        }
        log_probs
    }
    /// Floating-point operations that these passes need at `cost`, each prompt counted once,
    /// however they were packed.
    pub(crate) fn needed_flops(&self, cost: &PassCost, sequences: &[&Sequence]) -> f64 {
        let scored: Vec<&Sequence> =
            self.log_probs.iter().map(|&(idx, _)| sequences[idx]).collect();
        let places = first_with_prompt(&scored).into_iter().enumerate();
        places
            .map(|(place, first)| match place == first {
                true => cost.scored(scored[place]),
                false => cost.scored_behind_prompt(scored[place]),
            })
            .sum()
    }
}
