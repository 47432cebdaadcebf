//! The update: squares for the norm of the global gradient, clipping as
//! `torch.nn.utils.clip_grad_norm_`, AdamW. In sharded modes each rank does its shard, and only the
//! norm is worked out together.

use prospect_core::TrainConfig;
use prospect_libtorch::{AdamWOptions, fused_adamw};
use tch::{Kind, Tensor};

use crate::TrainError;
use crate::parameters::{Offload, Parameters, Piece, narrowed};

/// Elements whose squares are added in f32 before f64 takes over.
const NORM_PIECE: i64 = 1 << 20;

/// Added to the norm when clipping, as torch does.
const CLIP_EPSILON: f64 = 1e-6;

/// The numbers of one update.
struct Update {
    learning_rate: f64,
    betas: [f64; 2],
    epsilon: f64,
    weight_decay: f64,
    /// Counted from 1.
    number: u64,
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
    let _no_grad = tch::no_grad_guard();
    parameters.num_updates += 1;
    let update = Update {
        learning_rate,
        betas: config.adam_betas,
        epsilon: config.adam_epsilon,
        weight_decay: config.weight_decay,
        number: parameters.num_updates,
    };
    match &parameters.offload {
        Some(offload) => update.in_main_memory(parameters, offload),
        None if parameters.has_masters() => update.in_batches(parameters),
        None => {
            let whole = |piece: &Piece<'_>| Ok([piece.master()?.values()?, piece.gradient()?]);
            let pieces = parameters.pieces(i64::MAX)?;
            let numbers = pieces.iter().map(whole).collect::<Result<Vec<_>, TrainError>>()?;
            update.apply(&pieces, &numbers)
        }
    }
}

// === impl Update ===

impl Update {
    /// Where masters are in halves: as many pieces at a time as one has elements at most are made
    /// whole, updated and halved again.
    fn in_batches(&self, parameters: &Parameters) -> Result<(), TrainError> {
        let pieces = parameters.pieces(parameters.piece_len)?;
        let most = pieces.iter().map(Piece::len).sum::<i64>().min(parameters.piece_len);
        let scratch = Tensor::f_empty([most], (Kind::Float, parameters.device()))?;
        let mut rest = pieces.as_slice();
        while !rest.is_empty() {
            let mut numbers = Vec::new();
            let mut used = 0;
            for piece in rest {
                if used + piece.len() > most {
                    break;
                }
                let master = narrowed(&scratch, &(used..used + piece.len()))?;
                piece.master()?.read(&master)?;
                numbers.push([master, piece.gradient()?]);
                used += piece.len();
            }
            let (batch, others) = rest.split_at(numbers.len());
            self.apply(batch, &numbers)?;
            for (piece, [master, _]) in batch.iter().zip(&numbers) {
                piece.master()?.take(master)?;
            }
            rest = others;
        }
        Ok(())
    }

    /// In main memory, while the gradient of the next piece comes and the weights of the last one
    /// go.
    fn in_main_memory(&self, parameters: &Parameters, offload: &Offload) -> Result<(), TrainError> {
        let pieces = parameters.pieces(parameters.piece_len)?;
        let fetch = |turn: usize| {
            let piece = pieces.get(turn);
            piece.map(|piece| offload.fetch(turn, &piece.gradient()?)).transpose()
        };
        offload.begin()?;
        let mut coming = fetch(0)?;
        for (turn, piece) in pieces.iter().enumerate() {
            let next = fetch(turn + 1)?;
            let Some(gradient) = std::mem::replace(&mut coming, next) else { break };
            let master = piece.master()?;
            self.apply(std::slice::from_ref(piece), &[[master.values()?, gradient.wait()?]])?;
            offload.send(&master, &piece.own)?;
        }
        offload.settle()
    }

    /// Updates pieces, whose fp32 weights and gradients are at hand.
    fn apply(&self, pieces: &[Piece<'_>], numbers: &[[Tensor; 2]]) -> Result<(), TrainError> {
        // By what decays and what does not: weights, gradients and both moments.
        let mut lists: [[Vec<Tensor>; 4]; 2] = Default::default();
        for (piece, [master, gradient]) in pieces.iter().zip(numbers) {
            let [exp_avg, exp_avg_sq] = piece.moments()?;
            for (idx, buffer) in [master, gradient, &exp_avg, &exp_avg_sq].into_iter().enumerate() {
                for (part, tensor) in piece.split(buffer)?.into_iter().enumerate() {
                    if tensor.numel() > 0 {
                        lists[part][idx].push(tensor);
                    }
                }
            }
        }
        for (lists, weight_decay) in lists.iter().zip([self.weight_decay, 0.0]) {
            let [params, grads, exp_avgs, exp_avg_sqs] = lists;
            let Some(first) = params.first() else { continue };
            let options = AdamWOptions {
                lr: self.learning_rate,
                beta1: self.betas[0],
                beta2: self.betas[1],
                eps: self.epsilon,
                weight_decay,
            };
            let step = Tensor::f_full([], self.number as f64, (Kind::Float, first.device()))?;
            let steps: Vec<Tensor> = params.iter().map(|_| step.shallow_clone()).collect();
            fused_adamw(params, grads, exp_avgs, exp_avg_sqs, &steps, &options)?;
        }
        Ok(())
    }
}
