//! The value function of KTO (Ethayarajh et al. 2024, equation 8) and its form with the threshold
//! fixed at 0, which TRL calls `apo_zero_unpaired` (D'Oosterlinck et al. 2024, APO-zero).

use tch::{TchError, Tensor};

use super::{BatchLogProbs, ExampleLogProbs, Objective, Term};

/// Desirable: `λ (1 − σ(β (r − z0)))`; undesirable: `λ (1 − σ(β (z0 − r)))`.
#[derive(Clone, Copy, Debug)]
pub struct Kto {
    /// Sharpness β.
    pub beta: f64,
}

/// Desirable: `λ (1 − σ(β r))`; undesirable: `λ σ(β r)`.
#[derive(Clone, Copy, Debug)]
pub struct ApoZeroUnpaired {
    /// Sharpness β.
    pub beta: f64,
}

impl Objective for Kto {
    fn name(&self) -> &'static str {
        "kto"
    }

    fn needs_mismatched_pairs(&self) -> bool {
        true
    }

    fn evaluate(&self, example: &ExampleLogProbs, z0: f64) -> Term {
        term(self.beta, example, z0)
    }

    fn coefficients(&self, batch: &BatchLogProbs, z0: f64) -> Result<Tensor, TchError> {
        coefficients(self.beta, batch, z0)
    }
}

impl Objective for ApoZeroUnpaired {
    fn name(&self) -> &'static str {
        "apo_zero_unpaired"
    }

    fn needs_mismatched_pairs(&self) -> bool {
        false
    }

    fn evaluate(&self, example: &ExampleLogProbs, _z0: f64) -> Term {
        // σ(βr) = 1 − σ(−βr): both classes are KTO's with the threshold at 0.
        term(self.beta, example, 0.0)
    }

    fn coefficients(&self, batch: &BatchLogProbs, _z0: f64) -> Result<Tensor, TchError> {
        coefficients(self.beta, batch, 0.0)
    }
}

/// `λ (1 − σ(u))` with `u = sβ(r − threshold)`, where s is the label's sign.
fn term(beta: f64, example: &ExampleLogProbs, threshold: f64) -> Term {
    let sign = example.label.sign();
    let log_ratio = example.log_ratio();
    let argument = sign * beta * (log_ratio - threshold);
    // 1 − σ(u) = σ(−u), without the cancellation for large u.
    let shortfall = sigmoid(-argument);
    let slope = sigmoid(argument) * shortfall;
    Term {
        loss: example.weight * shortfall,
        coefficient: -sign * example.weight * beta * slope,
        reward: beta * log_ratio,
        is_correct: argument > 0.0,
        saturation: 4.0 * slope,
    }
}

/// The coefficients of [`term`] for many sequences.
fn coefficients(beta: f64, batch: &BatchLogProbs, threshold: f64) -> Result<Tensor, TchError> {
    let log_ratio_s = batch.policy_s.f_sub(&batch.reference_s)?;
    let argument_s =
        log_ratio_s.f_sub_scalar(threshold)?.f_mul(&batch.sign_s)?.f_mul_scalar(beta)?;
    let slope_s = argument_s.f_sigmoid()?.f_mul(&argument_s.f_neg()?.f_sigmoid()?)?;
    slope_s.f_mul(&batch.sign_s)?.f_mul(&batch.weight_s)?.f_mul_scalar(-beta)
}

/// The logistic function; exact to rounding at both ends.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let small = x.exp();
        small / (1.0 + small)
    }
}
