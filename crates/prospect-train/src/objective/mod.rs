//! Losses over binary feedback, as scalar mathematics in f64: no tensors, no ranks. The engine
//! asks an objective for the loss of each sequence and its derivative with respect to the
//! policy's log-probability; the backward pass needs nothing else.

mod kto;
#[cfg(test)]
mod tests;

use prospect_core::{Label, ObjectiveConfig, ObjectiveName};

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
