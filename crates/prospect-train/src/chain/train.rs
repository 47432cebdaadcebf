//! Walks the model's chain on one microbatch: forward block by block, then backward by one
//! vector-Jacobian product per block. The input of every block is a detached leaf, so each block
//! has a graph of its own that is freed as soon as its product is done.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, s sequences, h hidden width.

use prospect_core::{Recompute, Sequence};
use prospect_libtorch::{KeepGraph, vjp};
use prospect_model::CausalLm;
use tch::{Device, Kind, Tensor};

use super::Chain;
use crate::TrainError;
use crate::batch::PackedBatch;
use crate::head::{self, HeadGradient, HeadVisit, TILE_BYTES, Visits};
use crate::parameters::Parameters;
use crate::reduction::Reduction;

/// A forward pass that waits for its coefficients.
pub(crate) struct ForwardPass {
    batch: PackedBatch,
    /// `[T, H]` per block: leaves.
    inputs_th: Vec<Tensor>,
    /// `[T, H]` per block with its graph; empty when blocks are computed again.
    outputs_th: Vec<Tensor>,
    /// `[N, H]`, a leaf: the last block's output where completion tokens are predicted.
    final_nh: Tensor,
    /// `[N, H]` with its graph.
    normed_nh: Tensor,
    head: HeadVisit,
    /// f64 `[S]`: per sequence, sum of the completion's log-probabilities, in nats.
    pub(crate) log_probs_s: Tensor,
}

impl ForwardPass {
    /// Computes the log-probabilities and keeps what the backward pass needs.
    pub(crate) fn new(
        chain: &Chain<'_>,
        sequences: &[&Sequence],
        recompute: Recompute,
    ) -> Result<Self, TrainError> {
        let num_layers = chain.model.config().num_layers;
        let batch = PackedBatch::new(chain.model, sequences)?;
        let mut hidden_th = chain.visit(0, Some(1), |model| {
            let _no_grad = tch::no_grad_guard();
            leaf(&model.embed(&batch.token_ids_t)?)
        })?;
        let (mut inputs_th, mut outputs_th) = (Vec::new(), Vec::new());
        for idx in 0..num_layers {
            let output_th = chain.visit(idx + 1, Some(idx + 2), |model| {
                let _no_grad = (recompute == Recompute::Blocks).then(tch::no_grad_guard);
                Ok(model.block(idx, &hidden_th, &batch.layout)?)
            })?;
            let next_th = leaf(&output_th)?;
            inputs_th.push(std::mem::replace(&mut hidden_th, next_th));
            if recompute != Recompute::Blocks {
                outputs_th.push(output_th);
            }
        }
        let final_nh = leaf(&hidden_th.f_detach()?.f_index_select(0, &batch.positions_n)?)?;
        let (normed_nh, head) = chain.visit(num_layers + 1, None, |model| {
            let normed_nh = model.final_norm(&final_nh)?;
            let weight_vh = model.head_weight();
            let targets_n = &batch.targets_n;
            let head =
                head::log_probs(&normed_nh, &weight_vh, targets_n, Visits::Twice, TILE_BYTES)?;
            Ok((normed_nh, head))
        })?;
        let log_probs_s = batch.sum_per_sequence(&head.log_probs_n)?;
        Ok(Self { batch, inputs_th, outputs_th, final_nh, normed_nh, head, log_probs_s })
    }

    /// Adds the gradients of all parameters for these derivatives `[S]` of the loss with respect to
    /// the sequences' log-probabilities. With a reduction, which comes with the step's last gradients,
    /// and with all where they are sharded, each segment's sum over ranks starts as soon as they are
    /// there.
    pub(crate) fn backward(
        mut self,
        chain: &Chain<'_>,
        parameters: &Parameters,
        coefficients_s: &Tensor,
        mut reduction: Option<&mut Reduction<'_>>,
    ) -> Result<(), TrainError> {
        let num_layers = chain.model.config().num_layers;
        let mut gradient_th = chain.visit(num_layers + 1, Some(num_layers), |model| {
            self.head_backward(model, parameters, coefficients_s)
        })?;
        // Neither end of the chain is visited again.
        chain.end_pass()?;
        for idx in (0..num_layers).rev() {
            // The segment behind this block is final.
            if let Some(reduction) = reduction.as_deref_mut() {
                reduction.start_from(idx + 2, parameters)?;
            }
            let input_th = self.inputs_th.pop().expect("the forward pass kept every block's input");
            let output_th = self.outputs_th.pop();
            let next = (idx > 0).then_some(idx);
            gradient_th = chain.visit(idx + 1, next, |model| {
                let output_th = match output_th {
                    Some(output_th) => output_th,
                    None => model.block(idx, &input_th, &self.batch.layout)?,
                };
                segment_vjp(parameters, idx + 1, output_th, input_th, gradient_th)
            })?;
        }
        if let Some(reduction) = reduction.as_deref_mut() {
            reduction.start_from(1, parameters)?;
        }
        self.embedding_backward(chain.model, parameters, gradient_th)?;
        if let Some(reduction) = reduction {
            reduction.start_from(0, parameters)?;
        }
        Ok(())
    }

    /// Through the embedding: the gradient of every token goes to its row, but for the padding
    /// token's, whose row only the head moves, as with `padding_idx` in torch.
    fn embedding_backward(
        &self,
        model: &CausalLm,
        parameters: &Parameters,
        mut gradient_th: Tensor,
    ) -> Result<(), TrainError> {
        let token_ids_t = &self.batch.token_ids_t;
        if let Some(padding_idx) = model.config().padding_idx {
            let is_padding_t1 = token_ids_t.f_eq(padding_idx)?.f_unsqueeze(1)?;
            let _ = gradient_th.f_masked_fill_(&is_padding_t1, 0.0)?;
        }
        add_rows(&parameters.embedding_gradient()?, token_ids_t, &gradient_th)
    }

    /// Through head and final norm: the gradient of the last block's output, `[T, H]`.
    fn head_backward(
        &mut self,
        model: &CausalLm,
        parameters: &Parameters,
        coefficients_s: &Tensor,
    ) -> Result<Tensor, TrainError> {
        let kind = model.kind();
        let coefficients_n = self.batch.spread(coefficients_s)?;
        let normed_gradient_nh = head::gradient(
            &self.normed_nh,
            &model.head_weight(),
            &self.batch.targets_n,
            self.head.take(),
            &HeadGradient {
                coefficients_n: &coefficients_n,
                weight_gradient_vh: &parameters.head_gradient()?,
                tile_bytes: TILE_BYTES,
            },
        )?;
        let final_gradient_nh = segment_vjp(
            parameters,
            model.config().num_layers + 1,
            self.normed_nh.shallow_clone(),
            self.final_nh.shallow_clone(),
            normed_gradient_nh.f_to_kind(kind)?,
        )?;
        let _no_grad = tch::no_grad_guard();
        let shape = [self.batch.token_ids_t.size1()?, self.final_nh.size2()?.1];
        let mut gradient_th = Tensor::f_zeros(shape, (kind, model.device()))?;
        let _ = gradient_th.f_index_copy_(0, &self.batch.positions_n, &final_gradient_nh)?;
        Ok(gradient_th)
    }
}

/// The visits of a forward pass whose work only other ranks have.
pub(crate) fn walk_forward_idly(chain: &Chain<'_>) -> Result<(), TrainError> {
    let last = chain.model.config().num_layers + 1;
    (0..=last).try_for_each(|segment| {
        chain.visit(segment, (segment < last).then_some(segment + 1), |_| Ok(()))
    })
}

/// The visits and reductions of a backward pass whose work only other ranks have.
pub(crate) fn walk_backward_idly(
    chain: &Chain<'_>,
    parameters: &Parameters,
    reduction: &mut Reduction<'_>,
) -> Result<(), TrainError> {
    let num_layers = chain.model.config().num_layers;
    chain.visit(num_layers + 1, Some(num_layers), |_| Ok(()))?;
    chain.end_pass()?;
    for idx in (0..num_layers).rev() {
        reduction.start_from(idx + 2, parameters)?;
        chain.visit(idx + 1, (idx > 0).then_some(idx), |_| Ok(()))?;
    }
    reduction.start_from(0, parameters)
}

/// The product for one segment: adds the gradients of its parameters and returns its input's.
fn segment_vjp(
    parameters: &Parameters,
    segment: usize,
    output: Tensor,
    input: Tensor,
    output_gradient: Tensor,
) -> Result<Tensor, TrainError> {
    let leaves = &parameters.segments[segment].leaves;
    // An untied head has its gradient from its tiles; the graph ends at the norm before it.
    let num_in_graph = if segment + 1 == parameters.segments.len() { 1 } else { leaves.len() };
    let mut inputs = vec![input];
    inputs.extend(leaves[..num_in_graph].iter().map(Tensor::shallow_clone));
    let mut gradients = vjp(&[output], &inputs, &[output_gradient], KeepGraph::No)?.into_iter();
    let input_gradient = gradients.next().flatten();
    parameters.accumulate(segment, gradients.collect())?;
    match input_gradient {
        Some(gradient) => Ok(gradient),
        None => Ok(inputs[0].f_zeros_like()?),
    }
}

/// Adds rows `[T, H]` to the rows of `sum` (f32 `[V, H]`) that `index_t` names, always in the
/// same order: with `index_add_` on CPU, which is serial, and by sorting on CUDA, where
/// `index_add_` would be atomic.
fn add_rows(sum: &Tensor, index_t: &Tensor, rows_th: &Tensor) -> Result<(), TrainError> {
    let _no_grad = tch::no_grad_guard();
    let mut sum = sum.shallow_clone();
    let rows_th = rows_th.f_to_kind(Kind::Float)?;
    let _ = match sum.device() {
        Device::Cuda(_) => sum.f_index_put_(&[Some(index_t)], &rows_th, true)?,
        _ => sum.f_index_add_(0, index_t, &rows_th)?,
    };
    Ok(())
}

/// The same values without a graph, asking for gradients.
fn leaf(tensor: &Tensor) -> Result<Tensor, TrainError> {
    Ok(tensor.f_detach()?.f_set_requires_grad(true)?)
}
