//! Losses over binary feedback, as mathematics of single sequences in f64: no ranks, no model. The
//! backward pass needs one number a sequence, the derivative of its loss with respect to the
//! policy's log-probability. An objective gives it for many sequences on the device that they are
//! on, so that nobody waits for the device, and for one sequence on the host together with the
//! loss and what else is reported.
//!
//! Shape suffix: s sequences of a microbatch.

mod kto;
#[cfg(test)]
mod tests;

use prospect_core::{Label, ObjectiveConfig, ObjectiveName};
use tch::{TchError, Tensor};

pub use kto::{ApoZeroUnpaired, Kto};

/// What an objective knows about one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExampleLogProbs {
    /// Sum of the completion's log-probabilities under the policy, in nats.
    pub policy: f64,
    /// The same under the reference.
    pub reference: f64,
    /// Number of completion tokens, for objectives that normalise by length.
    pub num_tokens: u64,
    /// What the feedback says.
    pub label: Label,
    /// Weight λ of the loss term.
    pub weight: f64,
}

/// What an objective knows about the sequences of a microbatch: f64 `[S]` each, on one device, and
/// in meaning as in [`ExampleLogProbs`].
#[derive(Debug)]
pub struct BatchLogProbs {
    /// Under the policy, in nats.
    pub policy_s: Tensor,
    /// Under the reference, in nats.
    pub reference_s: Tensor,
    /// Numbers of completion tokens.
    pub num_tokens_s: Tensor,
    /// 1 for desirable sequences, −1 for others.
    pub sign_s: Tensor,
    /// Weights λ.
    pub weight_s: Tensor,
}

/// One sequence's part of the loss, not yet divided by the global batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Weighted loss.
    pub loss: f64,
    /// Derivative of `loss` with respect to the policy's log-probability.
    pub coefficient: f64,
    /// β times the log-ratio.
    pub reward: f64,
    /// Whether the example lies on its label's side of the threshold.
    pub is_correct: bool,
    /// 4σ(u)(1−σ(u)), with u the argument of the value function: 1 where the gradient is largest.
    pub saturation: f64,
}

/// A human-aware loss. To add one: implement this trait in a file of its own, give it a name in
/// `prospect_core::ObjectiveName` and construct it in [`objective`]; the engine does not change,
/// as long as the loss is a sum over sequences of functions of their log-probabilities and of one
/// detached number per global batch.
pub trait Objective: Send {
    /// Name in the configuration.
    fn name(&self) -> &'static str;

    /// Whether `z0` is used, so that mismatched pairs have to be scored.
    fn needs_mismatched_pairs(&self) -> bool;

    /// Loss and derivative of one sequence. `z0` is the reference point of the global batch, a
    /// constant in the derivative; it is 0 for objectives without pairs.
    fn evaluate(&self, example: &ExampleLogProbs, z0: f64) -> Term;

    /// The derivatives of [`evaluate`](Self::evaluate) of many sequences, f64 `[S]`, equal to
    /// rounding. Nothing is read from the device.
    ///
    /// # Errors
    /// Those of tensor operations.
    fn coefficients(&self, batch: &BatchLogProbs, z0: f64) -> Result<Tensor, TchError>;
}

impl ExampleLogProbs {
    /// `log π_θ − log π_ref` of the completion, in nats.
    pub fn log_ratio(&self) -> f64 {
        self.policy - self.reference
    }
}

/// The objective that the configuration names.
pub fn objective(config: &ObjectiveConfig) -> Box<dyn Objective> {
    match config.name {
        ObjectiveName::Kto => Box::new(Kto { beta: config.beta }),
        ObjectiveName::ApoZeroUnpaired => Box::new(ApoZeroUnpaired { beta: config.beta }),
    }
}
