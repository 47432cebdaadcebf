//! The check before the first update: where policy and reference are the same model, every
//! log-ratio is 0, and what is not shows that the two are not computed alike or that a reference
//! value belongs to something else.
//!
//! How near to 0 depends on what was packed together. The same sequences in the same order give
//! the same bits, with and without a graph, in fp32 and in bf16; in fp32 on a CPU exactly 0 is
//! demanded. So in the step that is checked the reference's passes are those of the policy, and
//! targets and mismatched pairs do not share their prompts. Another packing, as that of a value
//! which was computed earlier, rounds otherwise. In bf16, and on a GPU, the bound for that is
//! demanded in any case, since nothing promises that a GPU's kernels for both passes are the same.
//! On a CPU, with a model of 135 million parameters, two packings differ by up to 2.4e-6 nats a
//! completion token in fp32 and not at all in bf16.

use std::fmt;

use prospect_core::{RowId, Sequence, Step};
use tch::{Device, Kind};

/// Most nats per completion token by which fp32 log-probabilities of two packings differ.
pub(crate) const FLOAT32_BOUND: f64 = 1e-3;

/// The same for bf16.
pub(crate) const BFLOAT16_BOUND: f64 = 0.125;

/// A log-ratio that is not 0 before the first update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// The step.
    pub step: Step,
    /// Row of the prompt.
    pub prompt_row: RowId,
    /// Row of the completion.
    pub completion_row: RowId,
    /// Under the policy, in nats.
    pub policy_log_prob: f64,
    /// Under the reference, in nats.
    pub reference_log_prob: f64,
    /// By how much the two may differ, in nats.
    pub bound: f64,
}

/// What a reference value was packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// What the policy's is packed with.
    Same,
    /// Something else, or nobody knows.
    Other,
}

/// Checks log-ratios and keeps the first that is too large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriftCheck {
    pub(crate) step: Step,
    /// Type that the passes compute in.
    pub(crate) kind: Kind,
    /// Device that they are computed on.
    pub(crate) device: Device,
    pub(crate) found: Option<Drift>,
}

// === impl DriftCheck ===

impl DriftCheck {
    /// Nothing found yet.
    pub(crate) fn new(step: Step, kind: Kind, device: Device) -> Self {
        Self { step, kind, device, found: None }
    }

    /// Checks one sequence. What is not finite is not this check's business.
    pub(crate) fn check(
        &mut self,
        sequence: &Sequence,
        policy_log_prob: f64,
        (reference_log_prob, packing): (f64, Packing),
    ) {
        let per_token = match (self.kind, packing) {
            (Kind::Float, Packing::Same) if self.device == Device::Cpu => 0.0,
            (Kind::Float, _) => FLOAT32_BOUND,
            _ => BFLOAT16_BOUND,
        };
        let bound = per_token * sequence.num_completion_tokens() as f64;
        if (policy_log_prob - reference_log_prob).abs() > bound {
            self.found.get_or_insert(Drift {
                step: self.step,
                prompt_row: sequence.prompt_row,
                completion_row: sequence.completion_row,
                policy_log_prob,
                reference_log_prob,
                bound,
            });
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "step {}: policy and reference are the same model and nothing has moved yet, but prompt row {} with completion row {} has log-probability {} under the policy and {} under the reference, which may differ by {}; look for a model directory that was changed or reference values of another model",
            self.step,
            self.prompt_row,
            self.completion_row,
            self.policy_log_prob,
            self.reference_log_prob,
            self.bound,
        )
    }
}

impl std::error::Error for Drift {}
