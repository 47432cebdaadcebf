//! What was not finite, and where: enough to find the rows or the parameter without running the
//! step again.

use std::fmt;

use prospect_core::{Label, Mode, ReferencePoint, RowId, Step};
use prospect_libtorch::ProcessGroup;
use tch::{Kind, Tensor};

use crate::examples::Tally;
use crate::parameters::{Parameters, narrowed};
use crate::readback::fetch;
use crate::{TrainError, Trainer};

/// Where a step stopped because a number was not finite.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// The step.
    pub step: Step,
    /// The rank that says this.
    pub rank: usize,
    /// Ranks with examples whose log-probabilities are not finite; this rank alone where the
    /// others could not be asked.
    pub ranks: Vec<usize>,
    /// This rank's examples whose log-probabilities are not finite.
    pub examples: Vec<NotFiniteExample>,
    /// The reference point before the clamp.
    pub reference_point: f64,
    /// Norm of the global gradient, where it was reached.
    pub grad_norm: Option<f64>,
    /// Where no example is to blame: the first parameter whose gradient is not finite. None with
    /// a norm that is not finite means that the squares of finite elements overflow.
    pub gradient: Option<NotFiniteGradient>,
}

/// A sequence whose log-ratio is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFiniteExample {
    /// Row of the prompt.
    pub prompt_row: RowId,
    /// Row of the completion.
    pub completion_row: RowId,
    /// What the feedback says; none for a mismatched pair.
    pub label: Option<Label>,
    /// Under the policy, in nats.
    pub policy_log_prob: f64,
    /// Under the reference, in nats.
    pub reference_log_prob: f64,
}

/// A parameter whose global gradient is not finite, the first in the model's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFiniteGradient {
    /// Its name in the model's files.
    pub parameter: String,
    /// Elements that are not finite.
    pub num_not_finite: u64,
    /// All its elements.
    pub num_elements: u64,
}

impl Trainer {
    /// The error of a step that this rank stops for alone.
    pub(crate) fn not_finite_here(
        &self,
        step: Step,
        tally: Tally,
        point: &ReferencePoint,
    ) -> TrainError {
        let rank = self.group.as_ref().map_or(0, ProcessGroup::rank);
        TrainError::NotFinite(Box::new(NotFinite {
            step,
            rank,
            ranks: vec![rank],
            examples: tally.not_finite,
            reference_point: point.raw,
            grad_norm: None,
            gradient: None,
        }))
    }

    /// The error of a step that all ranks stop for; they tell each other who has the examples.
    pub(crate) fn not_finite_everywhere(
        &self,
        step: Step,
        tally: Tally,
        point: &ReferencePoint,
        grad_norm: Option<f64>,
    ) -> Result<TrainError, TrainError> {
        let group = self.world()?;
        let mut flags = vec![0.0_f32; group.world_size()];
        flags[group.rank()] = if tally.not_finite.is_empty() { 0.0 } else { 1.0 };
        let mut flags = Tensor::f_from_slice(&flags)?.f_to_device(self.device)?;
        group.all_reduce_sum(&mut flags)?.wait()?;
        let flags = Vec::<f32>::try_from(&fetch(&flags)?)?;
        group.check_health()?;
        let ranks: Vec<usize> = (0..flags.len()).filter(|&rank| flags[rank] > 0.0).collect();
        let gradient = match grad_norm {
            Some(_) if ranks.is_empty() => first_not_finite(&self.parameters, group)?,
            _ => None,
        };
        Ok(TrainError::NotFinite(Box::new(NotFinite {
            step,
            rank: group.rank(),
            ranks,
            examples: tally.not_finite,
            reference_point: point.raw,
            grad_norm,
            gradient,
        })))
    }
}

/// The first parameter whose gradient is not finite, on whatever ranks it lies.
fn first_not_finite(
    parameters: &Parameters,
    group: &ProcessGroup,
) -> Result<Option<NotFiniteGradient>, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let slots = || parameters.segments.iter().flat_map(|segment| &segment.slots);
    let mut counts = vec![0_i64; slots().count()];
    let mut first = 0;
    for segment in &parameters.segments {
        let gradient = segment.own_gradient()?;
        for part in segment.own_parts() {
            let gradient = narrowed(&gradient, &part.of_shard)?;
            let num_finite = gradient.f_isfinite()?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
            counts[first + part.slot_idx] = gradient.numel() as i64 - num_finite;
        }
        first += segment.slots.len();
    }
    if parameters.mode != Mode::Replicated {
        let mut sums = Tensor::f_from_slice(&counts)?.f_to_device(parameters.device())?;
        group.all_reduce_sum(&mut sums)?.wait()?;
        counts = Vec::try_from(&fetch(&sums)?)?;
        group.check_health()?;
    }
    let found = slots().zip(counts).find(|(_, count)| *count > 0);
    Ok(found.map(|(slot, count)| NotFiniteGradient {
        parameter: slot.name.clone(),
        num_not_finite: count as u64,
        num_elements: slot.numel as u64,
    }))
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} on rank {} is not finite", self.step, self.rank)?;
        if let Some(norm) = self.grad_norm {
            write!(f, ": gradient norm {norm}")?;
        }
        write!(f, ", reference point {}", self.reference_point)?;
        for example in &self.examples {
            write!(f, "; {example}")?;
        }
        match &self.gradient {
            Some(gradient) => write!(f, "; {gradient}")?,
            None if self.grad_norm.is_some() && self.ranks.is_empty() => {
                f.write_str("; every element of the gradient is finite, but not their squares")?;
            }
            None => {}
        }
        let others: Vec<usize> =
            self.ranks.iter().copied().filter(|&rank| rank != self.rank).collect();
        if !others.is_empty() {
            write!(f, "; also see the logs of ranks {others:?}")?;
        }
        f.write_str("; the weights have not moved: lower train.learning_rate or look at these rows")
    }
}

impl std::error::Error for NotFinite {}

impl fmt::Display for NotFiniteExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.label {
            Some(Label::Desirable) => "desirable",
            Some(Label::Undesirable) => "undesirable",
            None => "mismatched",
        };
        write!(
            f,
            "prompt row {} with completion row {} ({kind}): log-probability {} under the policy, {} under the reference",
            self.prompt_row, self.completion_row, self.policy_log_prob, self.reference_log_prob,
        )
    }
}

impl fmt::Display for NotFiniteGradient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameter, num_not_finite, num_elements } = self;
        write!(
            f,
            "the gradient of {parameter} has {num_not_finite} of {num_elements} elements that are not finite"
        )
    }
}
