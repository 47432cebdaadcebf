//! The head, in tiles: the matrix of all logits never exists.
//!
//! The first visit gives each completion token's log-probability and keeps its normaliser. Once
//! the loss's derivative per sequence is known, the second visit computes each tile of logits
//! again and turns it into gradients without a graph: with `p = exp(logit − normaliser)`, the
//! derivative of a token's log-probability with respect to its logits is `onehot − p`.
//! Logits that fit into one tile are kept between the visits.
//!
//! Shape suffixes: n completion tokens, v vocabulary, h hidden width.

#[cfg(test)]
mod tests;

use tch::{Device, Kind, Tensor};

use crate::TrainError;

/// Most bytes of fp32 logits that exist at a time.
pub(crate) const TILE_BYTES: i64 = 32 << 20;

/// Most completion tokens whose gradient is computed together: more would make tiles so narrow
/// that the products become slow.
const MAX_ROWS: i64 = 4096;

/// What the first visit leaves.
pub(crate) struct HeadVisit {
    /// f32 `[N]`: log-probability of each target.
    pub(crate) log_probs_n: Tensor,
    /// f32 `[N]`: log of the sum of the exponentials of all logits.
    normalizers_n: Tensor,
    /// f32 `[N, V]`: log-probabilities of all tokens, where one tile holds them and the caller
    /// comes again.
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
    let (num_rows, vocab_size) = (hidden_nh.size2()?.0, weight_vh.size2()?.0);
    let rows_per_tile = (tile_bytes / (4 * vocab_size)).clamp(1, num_rows.max(1));
    let weight_hv = weight_vh.f_tr()?;
    let (mut log_probs, mut normalizers) = (Vec::new(), Vec::new());
    let mut kept_nv = None;
    for start in (0..num_rows).step_by(rows_per_tile as usize) {
        let length = rows_per_tile.min(num_rows - start);
        let logits_nv = product(&hidden_nh.f_narrow(0, start, length)?, &weight_hv)?;
        let index_n1 = targets_n.f_narrow(0, start, length)?.f_unsqueeze(1)?;
        let chosen_n = logits_nv.f_gather(1, &index_n1, false)?.f_squeeze_dim(1)?;
        let all_nv = logits_nv.f_log_softmax(1, Kind::Float)?;
        let log_probs_n = all_nv.f_gather(1, &index_n1, false)?.f_squeeze_dim(1)?;
        normalizers.push(chosen_n.f_sub(&log_probs_n)?);
        log_probs.push(log_probs_n);
        kept_nv = (visits == Visits::Twice && length == num_rows).then_some(all_nv);
    }
    Ok(HeadVisit {
        log_probs_n: Tensor::f_cat(&log_probs, 0)?,
        normalizers_n: Tensor::f_cat(&normalizers, 0)?,
        kept_nv,
    })
}

/// Second visit: returns the gradient of the hidden states, f32 `[N, H]`, and adds that of the
/// weight. Tiles go along the vocabulary, so that each part of the weight's gradient, which is
/// far larger than the hidden states', is written once.
pub(crate) fn gradient(
    hidden_nh: &Tensor,
    weight_vh: &Tensor,
    targets_n: &Tensor,
    visit: HeadVisit,
    gradient: &HeadGradient<'_>,
) -> Result<Tensor, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let (num_rows, width) = hidden_nh.size2()?;
    let vocab_size = weight_vh.size2()?.0;
    let hidden_gradient_nh = Tensor::f_zeros([num_rows, width], (Kind::Float, hidden_nh.device()))?;
    if let Some(mut probabilities_nv) = visit.kept_nv {
        let _ = probabilities_nv.f_exp_()?;
        let tile =
            Tile { weight_vh, first_token: 0, weight_gradient_vh: gradient.weight_gradient_vh };
        tile.add(
            hidden_nh,
            targets_n,
            probabilities_nv,
            gradient.coefficients_n,
            &hidden_gradient_nh,
        )?;
        return Ok(hidden_gradient_nh);
    }
    for start in (0..num_rows).step_by(MAX_ROWS as usize) {
        let length = MAX_ROWS.min(num_rows - start);
        let rows = |tensor: &Tensor| tensor.f_narrow(0, start, length);
        let (hidden_nh, targets_n) = (rows(hidden_nh)?, rows(targets_n)?);
        let normalizers_n1 = rows(&visit.normalizers_n)?.f_unsqueeze(1)?;
        let tokens_per_tile = (gradient.tile_bytes / (4 * length)).clamp(1, vocab_size);
        for first_token in (0..vocab_size).step_by(tokens_per_tile as usize) {
            let num_tokens = tokens_per_tile.min(vocab_size - first_token);
            let tokens = |tensor: &Tensor| tensor.f_narrow(0, first_token, num_tokens);
            let weight_vh = tokens(weight_vh)?;
            let weight_gradient_vh = tokens(gradient.weight_gradient_vh)?;
            let mut probabilities_nv = product(&hidden_nh, &weight_vh.f_tr()?)?;
            let _ = probabilities_nv.f_sub_(&normalizers_n1)?.f_exp_()?;
            let tile = Tile {
                weight_vh: &weight_vh,
                first_token,
                weight_gradient_vh: &weight_gradient_vh,
            };
            tile.add(
                &hidden_nh,
                &targets_n,
                probabilities_nv,
                &rows(gradient.coefficients_n)?,
                &rows(&hidden_gradient_nh)?,
            )?;
        }
    }
    Ok(hidden_gradient_nh)
}

/// A range of the vocabulary: its weights and their gradient.
struct Tile<'a> {
    weight_vh: &'a Tensor,
    first_token: i64,
    weight_gradient_vh: &'a Tensor,
}

impl Tile<'_> {
    /// Adds this range's part of both gradients.
    fn add(
        &self,
        hidden_nh: &Tensor,
        targets_n: &Tensor,
        mut probabilities_nv: Tensor,
        coefficients_n: &Tensor,
        hidden_gradient_nh: &Tensor,
    ) -> Result<(), TrainError> {
        let num_tokens = self.weight_vh.size2()?.0;
        let index_n = targets_n.f_sub_scalar(self.first_token)?;
        let inside_n = index_n.f_ge(0_i64)?.f_logical_and(&index_n.f_lt(num_tokens)?)?;
        let index_n1 = index_n.f_clamp(0_i64, num_tokens - 1)?.f_unsqueeze(1)?;
        let chosen_n1 = coefficients_n
            .f_where_self(&inside_n, &coefficients_n.f_zeros_like()?)?
            .f_unsqueeze(1)?;
        let _ = probabilities_nv.f_mul_(&coefficients_n.f_neg()?.f_unsqueeze(1)?)?;
        // One index a row, so the order of additions does not matter.
        let _ = probabilities_nv.f_scatter_add_(1, &index_n1, &chosen_n1)?;
        let gradient_nv = probabilities_nv;
        add_product(hidden_gradient_nh, &gradient_nv, self.weight_vh)?;
        add_product(self.weight_gradient_vh, &gradient_nv.f_tr()?, hidden_nh)
    }
}

/// A matrix product with its result in f32. On CUDA sums stay in f32 throughout; on CPU a
/// product of bf16 matrices is rounded to bf16 once, at its end.
fn product(left: &Tensor, right: &Tensor) -> Result<Tensor, TrainError> {
    let half = left.f_kind()? != Kind::Float;
    Ok(match left.device() {
        Device::Cuda(_) if half => left.f_mm_dtype(right, Kind::Float)?,
        _ => left.f_mm(right)?.f_to_kind(Kind::Float)?,
    })
}

/// Adds `left @ right` to `sum` (f32); `left` is f32 and is rounded to the type of `right`.
fn add_product(sum: &Tensor, left: &Tensor, right: &Tensor) -> Result<(), TrainError> {
    let mut sum = sum.shallow_clone();
    let kind = right.f_kind()?;
    if kind == Kind::Float {
        let _ = sum.f_addmm_(left, right)?;
    } else {
        let _ = sum.f_add_(&product(&left.f_to_kind(kind)?, right)?)?;
    }
    Ok(())
}
