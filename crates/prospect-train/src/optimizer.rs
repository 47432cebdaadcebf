//! The update: squares for the norm of the global gradient, clipping as
//! `torch.nn.utils.clip_grad_norm_`, AdamW. In sharded modes each rank does its shard, and only the
//! norm is worked out together.

use prospect_core::TrainConfig;
use prospect_libtorch::{AdamWOptions, fused_adamw};
use tch::{Kind, Tensor};

use crate::TrainError;
use crate::parameters::{Parameters, Segment};

/// Elements whose squares are added in f32 before f64 takes over.
const NORM_PIECE: i64 = 1 << 20;

/// Added to the norm when clipping, as torch does.
const CLIP_EPSILON: f64 = 1e-6;

/// Parameters that one update treats alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Those with weight decay.
    Decaying,
    /// Those without.
    Rest,
}

/// Sum of the squares of this rank's gradients, an f64 scalar on their device; not finite if any
/// element is not.
pub(crate) fn gradient_square(parameters: &Parameters) -> Result<Tensor, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let mut norms = Vec::new();
    for segment in &parameters.segments {
        let gradient = segment.own_gradient()?;
        let length = gradient.size1()?;
        let whole = length / NORM_PIECE * NORM_PIECE;
        // One operation for all pieces but the last.
        let pieces = gradient.f_narrow(0, 0, whole)?.f_view([-1, NORM_PIECE])?;
        let rest = gradient.f_narrow(0, whole, length - whole)?.f_view([1, -1])?;
        for pieces in [pieces, rest] {
            norms.push(pieces.f_norm_scalaropt_dim(2, [1_i64].as_slice(), false)?);
        }
    }
    let squares = Tensor::f_cat(&norms, 0)?.f_to_kind(Kind::Double)?.f_square()?;
    Ok(squares.f_sum(Kind::Double)?)
}

/// Scales all gradients down to `max_norm` if their norm is above it; 0 means never.
pub(crate) fn clip(
    parameters: &mut Parameters,
    norm: f64,
    max_norm: f64,
) -> Result<(), TrainError> {
    let _no_grad = tch::no_grad_guard();
    let scale = max_norm / (norm + CLIP_EPSILON);
    if max_norm > 0.0 && scale < 1.0 {
        for segment in &mut parameters.segments {
            let _ = segment.own_gradient()?.f_mul_scalar_(scale)?;
        }
    }
    Ok(())
}

/// Moves the weights by one AdamW update, and what the passes compute with after them.
pub(crate) fn update(
    parameters: &mut Parameters,
    config: &TrainConfig,
    learning_rate: f64,
) -> Result<(), TrainError> {
    {
        let _no_grad = tch::no_grad_guard();
        parameters.num_updates += 1;
        // What is copied for an update elsewhere is one segment's gradient at a time.
        let at_once = if parameters.is_offloaded() { 1 } else { parameters.segments.len().max(1) };
        for segments in parameters.segments.chunks(at_once) {
            let gradients = segments
                .iter()
                .map(|segment| parameters.gradient_for_update(segment))
                .collect::<Result<Vec<_>, _>>()?;
            for (part, weight_decay) in [(Part::Decaying, config.weight_decay), (Part::Rest, 0.0)] {
                let options = AdamWOptions {
                    lr: learning_rate,
                    beta1: config.adam_betas[0],
                    beta2: config.adam_betas[1],
                    eps: config.adam_epsilon,
                    weight_decay,
                };
                let shards = segments.iter().zip(&gradients);
                update_part(shards, parameters.num_updates, part, &options)?;
            }
        }
    }
    parameters.publish()
}

/// Updates one part of some segments with their gradients.
fn update_part<'a>(
    shards: impl Iterator<Item = (&'a Segment, &'a Tensor)>,
    num_updates: u64,
    part: Part,
    options: &AdamWOptions,
) -> Result<(), TrainError> {
    let mut lists: [Vec<Tensor>; 4] = Default::default();
    for (segment, gradient) in shards {
        let buffers = [&segment.master, gradient, &segment.exp_avg, &segment.exp_avg_sq];
        for (list, buffer) in lists.iter_mut().zip(buffers) {
            let [decaying, rest] = segment.split(buffer)?;
            let tensor = match part {
                Part::Decaying => decaying,
                Part::Rest => rest,
            };
            if tensor.numel() > 0 {
                list.push(tensor);
            }
        }
    }
    let [params, grads, exp_avgs, exp_avg_sqs] = lists;
    let Some(first) = params.first() else { return Ok(()) };
    let step = Tensor::f_full([], num_updates as f64, (Kind::Float, first.device()))?;
    let steps: Vec<Tensor> = params.iter().map(|_| step.shallow_clone()).collect();
    Ok(fused_adamw(&params, &grads, &exp_avgs, &exp_avg_sqs, &steps, options)?)
}
