//! Passes without gradient.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, s sequences, h hidden width.

use prospect_core::Sequence;
use tch::Tensor;

use super::Chain;
use crate::TrainError;
use crate::batch::PackedBatch;
use crate::head::{self, TILE_BYTES, Visits};

/// Log-probabilities of the completions, one per sequence: f64 `[S]`, without gradient. Nothing is
/// read from the device.
pub(crate) fn score_batch(
    chain: &Chain<'_>,
    sequences: &[&Sequence],
) -> Result<Tensor, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let model = chain.model;
    let batch = PackedBatch::new(model, sequences)?;
    let mut hidden_th = chain.visit(0, Some(1), |model| Ok(model.embed(&batch.token_ids_t)?))?;
    let num_layers = model.config().num_layers;
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
