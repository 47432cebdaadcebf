//! The head, in tiles: the matrix of all logits never exists.
//!
//! A tile is a range of completion tokens (rows) and a range of the vocabulary. The first visit
//! keeps a running maximum and sum of exponentials a row, which give each completion token's
//! log-probability and its normaliser. Once the loss's derivative per sequence is known, the second
//! visit computes each tile again and turns it into gradients without a graph: with
//! `p = exp(logit − normaliser)`, the derivative of a token's log-probability with respect to its
//! logits is `onehot − p`. Logits that fit into one tile are kept between the visits.
//!
//! Products of bf16 matrices have their sums and results in fp32: on CUDA by the kernel's choice,
//! on a CPU with fp32 copies of a tile's operands, which without matrix units for bf16 is also
//! faster.
//!
//! Shape suffixes: n completion tokens, v vocabulary, c tokens of a tile, h hidden width.

#[cfg(test)]
mod tests;

use prospect_libtorch::{HeadTile, head_tile_gradient, head_tile_visit};
use tch::{Device, Kind, Tensor};

use crate::TrainError;

/// Most bytes of fp32 logits that exist at a time on a CPU.
pub(crate) const TILE_BYTES: i64 = 32 << 20;

/// How many times as large tiles are on CUDA, where small products leave units idle.
const CUDA_FACTOR: i64 = 8;

/// Most completion tokens in a tile: more would make tiles so narrow that the products become
/// slow.
const MAX_ROWS: i64 = 4096;

/// What the first visit leaves.
pub(crate) struct HeadVisit {
    /// f32 `[N]`: log-probability of each target.
    pub(crate) log_probs_n: Tensor,
    /// f32 `[N]`: log of the sum of the exponentials of all logits.
    normalizers_n: Tensor,
    /// f32 `[N, V]`: all logits, where one tile holds them and the caller comes again.
    kept_nv: Option<Tensor>,
}

impl HeadVisit {
    /// Takes what the second visit needs, so that its memory is freed with it.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            log_probs_n: self.log_probs_n.shallow_clone(),
            normalizers_n: self.normalizers_n.shallow_clone(),
            kept_nv: self.kept_nv.take(),
        }
    }
}

/// Whether there will be a second visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visits {
    /// Log-probabilities only.
    Once,
    /// Gradients too.
    Twice,
}

/// Derivatives for the second visit, and where they go.
pub(crate) struct HeadGradient<'a> {
    /// f32 `[N]`: derivative of the loss with respect to each target's log-probability.
    pub(crate) coefficients_n: &'a Tensor,
    /// f32 `[V, H]`: the gradient of the head's weight is added here.
    pub(crate) weight_gradient_vh: &'a Tensor,
    /// Most bytes of a tile.
    pub(crate) tile_bytes: i64,
}

/// First visit: log-probabilities of `targets_n` given normed hidden states `[N, H]`.
/// Without gradient, whatever the arguments require.
pub(crate) fn log_probs(
    hidden_nh: &Tensor,
    weight_vh: &Tensor,
    targets_n: &Tensor,
    visits: Visits,
    tile_bytes: i64,
) -> Result<HeadVisit, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let tiling = Tiling::new(hidden_nh, weight_vh, tile_bytes)?;
    let hidden_nh = operand(hidden_nh)?;
    let row =
        |value: f64| Tensor::f_full([tiling.num_rows], value, (Kind::Float, hidden_nh.device()));
    let (maximum_n, sum_n, chosen_n) = (row(f64::NEG_INFINITY)?, row(0.0)?, row(0.0)?);
    let mut kept_nv = None;
    for rows in tiling.rows() {
        let hidden_nh = rows.of(&hidden_nh)?;
        for tokens in tiling.tokens() {
            let weight_ch = operand(&tokens.of(weight_vh)?)?;
            let logits_nc = product(&hidden_nh, &weight_ch.f_tr()?)?;
            let tile = HeadTile {
                logits: &logits_nc,
                targets: &rows.of(targets_n)?,
                first_token: tokens.start,
            };
            head_tile_visit(tile, &rows.of(&maximum_n)?, &rows.of(&sum_n)?, &rows.of(&chosen_n)?)?;
            if visits == Visits::Twice && tiling.is_one() {
                kept_nv = Some(logits_nc);
            }
        }
    }
    let log_n = sum_n.f_log()?;
    Ok(HeadVisit {
        log_probs_n: chosen_n.f_sub(&maximum_n)?.f_sub(&log_n)?,
        normalizers_n: maximum_n.f_add(&log_n)?,
        kept_nv,
    })
}

/// Second visit: returns the gradient of the hidden states, f32 `[N, H]`, and adds that of the
/// weight. Each tile of logits is computed once for both.
pub(crate) fn gradient(
    hidden_nh: &Tensor,
    weight_vh: &Tensor,
    targets_n: &Tensor,
    mut visit: HeadVisit,
    gradient: &HeadGradient<'_>,
) -> Result<Tensor, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let tiling = Tiling::new(hidden_nh, weight_vh, gradient.tile_bytes)?;
    let hidden_nh = operand(hidden_nh)?;
    let hidden_gradient_nh = Tensor::f_zeros(hidden_nh.size(), (Kind::Float, hidden_nh.device()))?;
    for rows in tiling.rows() {
        let hidden_nh = rows.of(&hidden_nh)?;
        for tokens in tiling.tokens() {
            let weight_ch = operand(&tokens.of(weight_vh)?)?;
            let logits_nc = match visit.kept_nv.take() {
                Some(kept_nv) => kept_nv,
                None => product(&hidden_nh, &weight_ch.f_tr()?)?,
            };
            let tile = HeadTile {
                logits: &logits_nc,
                targets: &rows.of(targets_n)?,
                first_token: tokens.start,
            };
            let (normalizers_n, coefficients_n) =
                (rows.of(&visit.normalizers_n)?, rows.of(gradient.coefficients_n)?);
            let gradient_nc =
                head_tile_gradient(tile, &normalizers_n, &coefficients_n, &hidden_nh)?;
            drop(logits_nc);
            add_product(rows.of(&hidden_gradient_nh)?, &gradient_nc, &weight_ch)?;
            let weight_gradient_ch = tokens.of(gradient.weight_gradient_vh)?;
            add_product(weight_gradient_ch, &gradient_nc.f_tr()?, &hidden_nh)?;
        }
    }
    Ok(hidden_gradient_nh)
}

/// How rows and vocabulary are cut.
struct Tiling {
    num_rows: i64,
    vocab_size: i64,
    rows_per_tile: i64,
    tokens_per_tile: i64,
}

/// A range of the first dimension.
#[derive(Clone, Copy)]
struct Range {
    start: i64,
    length: i64,
}

// === impl Tiling ===

impl Tiling {
    fn new(hidden_nh: &Tensor, weight_vh: &Tensor, tile_bytes: i64) -> Result<Self, TrainError> {
        let (num_rows, (vocab_size, width)) = (hidden_nh.size2()?.0, weight_vh.size2()?);
        let factor = if hidden_nh.device().is_cuda() { CUDA_FACTOR } else { 1 };
        let numbers = tile_bytes * factor / 4;
        let rows_per_tile = num_rows.min(MAX_ROWS).min(numbers).max(1);
        // Beside the logits of a tile there is an fp32 form of its weights or of their gradient,
        // unless they are fp32 already.
        let is_copied = weight_vh.f_kind()? != Kind::Float;
        let numbers_per_token = if is_copied { rows_per_tile.max(width) } else { rows_per_tile };
        let tokens_per_tile = (numbers / numbers_per_token).clamp(1, vocab_size);
        Ok(Self { num_rows, vocab_size, rows_per_tile, tokens_per_tile })
    }

    fn is_one(&self) -> bool {
        self.rows_per_tile >= self.num_rows && self.tokens_per_tile >= self.vocab_size
    }

    fn rows(&self) -> impl Iterator<Item = Range> + use<> {
        ranges(self.num_rows, self.rows_per_tile)
    }

    fn tokens(&self) -> impl Iterator<Item = Range> + use<> {
        ranges(self.vocab_size, self.tokens_per_tile)
    }
}

// === impl Range ===

impl Range {
    fn of(self, tensor: &Tensor) -> Result<Tensor, TrainError> {
        Ok(tensor.f_narrow(0, self.start, self.length)?)
    }
}

fn ranges(total: i64, step: i64) -> impl Iterator<Item = Range> {
    let starts = (0..total).step_by(usize::try_from(step).expect("a tile has a row and a token"));
    starts.map(move |start| Range { start, length: step.min(total - start) })
}

/// A matrix in the type that products take: fp32 on a CPU.
fn operand(matrix: &Tensor) -> Result<Tensor, TrainError> {
    Ok(match matrix.device() {
        Device::Cuda(_) => matrix.shallow_clone(),
        _ => matrix.f_to_kind(Kind::Float)?,
    })
}

/// A matrix product with its result in f32.
fn product(left: &Tensor, right: &Tensor) -> Result<Tensor, TrainError> {
    Ok(match left.f_kind()? {
        Kind::Float => left.f_mm(right)?,
        _ => left.f_mm_dtype(right, Kind::Float)?,
    })
}

/// Adds `left @ right` to `sum` (f32), in place.
fn add_product(mut sum: Tensor, left: &Tensor, right: &Tensor) -> Result<(), TrainError> {
    let _ = match left.f_kind()? {
        Kind::Float => sum.f_addmm_(left, right)?,
        _ => sum.f_addmm_dtype_out(&sum, left, right, Kind::Float)?,
    };
    Ok(())
}
