//! What ranks report, to and from the wire. Sums may be infinite or no numbers
//! here: the run's state machine decides what becomes of them.

use prospect_core::{
    KlSums, PartKlSums, PartSums, PhaseSeconds, Rank, ReferenceValue, RowId, ShardKind, Step,
    StepReport, StepSums,
};

use crate::error::{require, require_finite};
use crate::shard::{list, parse_kind};
use crate::{MessageError, v1};

impl From<StepSums> for v1::StepSums {
    fn from(sums: StepSums) -> Self {
        Self {
            loss: sums.loss,
            num_desirable: sums.num_desirable,
            num_undesirable: sums.num_undesirable,
            reward_desirable: sums.reward_desirable,
            reward_undesirable: sums.reward_undesirable,
            log_prob_desirable: sums.log_prob_desirable,
            log_prob_undesirable: sums.log_prob_undesirable,
            num_correct: sums.num_correct,
            saturation: sums.saturation,
            num_tokens: sums.num_tokens,
            num_mismatched_tokens: sums.num_mismatched_tokens,
            num_shared_tokens: sums.num_shared_tokens,
            flops: sums.flops,
        }
    }
}

impl From<v1::StepSums> for StepSums {
    fn from(sums: v1::StepSums) -> Self {
        Self {
            loss: sums.loss,
            num_desirable: sums.num_desirable,
            num_undesirable: sums.num_undesirable,
            reward_desirable: sums.reward_desirable,
            reward_undesirable: sums.reward_undesirable,
            log_prob_desirable: sums.log_prob_desirable,
            log_prob_undesirable: sums.log_prob_undesirable,
            num_correct: sums.num_correct,
            saturation: sums.saturation,
            num_tokens: sums.num_tokens,
            num_mismatched_tokens: sums.num_mismatched_tokens,
            num_shared_tokens: sums.num_shared_tokens,
            flops: sums.flops,
        }
    }
}

impl From<PhaseSeconds> for v1::PhaseSeconds {
    fn from(seconds: PhaseSeconds) -> Self {
        Self {
            scoring: seconds.scoring,
            reference_point: seconds.reference_point,
            forward_backward: seconds.forward_backward,
            all_reduce: seconds.all_reduce,
            gather: seconds.gather,
            commit: seconds.commit,
            optimizer: seconds.optimizer,
            total: seconds.total,
        }
    }
}

impl From<v1::PhaseSeconds> for PhaseSeconds {
    fn from(seconds: v1::PhaseSeconds) -> Self {
        Self {
            scoring: seconds.scoring,
            reference_point: seconds.reference_point,
            forward_backward: seconds.forward_backward,
            all_reduce: seconds.all_reduce,
            gather: seconds.gather,
            commit: seconds.commit,
            optimizer: seconds.optimizer,
            total: seconds.total,
        }
    }
}

impl From<ReferenceValue> for v1::ReferenceValue {
    fn from(value: ReferenceValue) -> Self {
        Self {
            prompt_row: value.prompt_row.0,
            completion_row: value.completion_row.0,
            log_prob: value.log_prob,
        }
    }
}

impl TryFrom<v1::ReferenceValue> for ReferenceValue {
    type Error = MessageError;

    fn try_from(value: v1::ReferenceValue) -> Result<Self, MessageError> {
        require_finite(value.log_prob, "log_prob")?;
        Ok(Self {
            prompt_row: RowId(value.prompt_row),
            completion_row: RowId(value.completion_row),
            log_prob: value.log_prob,
        })
    }
}

/// The rank is not on the wire: it follows from the session, so that no worker
/// can speak for another.
impl From<StepReport> for v1::StepReport {
    fn from(report: StepReport) -> Self {
        Self {
            step: report.step.0,
            kind: v1::ShardKind::from(report.kind).into(),
            eval_index: report.eval_index,
            parts: report.parts.into_iter().map(Into::into).collect(),
            grad_norm: report.grad_norm,
            reference_values: report.reference_values.into_iter().map(Into::into).collect(),
            phase_seconds: Some(report.phase_seconds.into()),
            peak_memory_bytes: report.peak_memory_bytes,
        }
    }
}

/// Leaves the rank at 0 for the receiver to fill in.
impl TryFrom<v1::StepReport> for StepReport {
    type Error = MessageError;

    fn try_from(report: v1::StepReport) -> Result<Self, MessageError> {
        let kind = parse_kind(report.kind, "kind")?;
        require_step(report.step, kind)?;
        Ok(Self {
            rank: Rank::default(),
            step: Step(report.step),
            kind,
            eval_index: report.eval_index,
            parts: part_list(report.parts, |sums: &PartSums| sums.part)?,
            grad_norm: report.grad_norm,
            reference_values: list(report.reference_values, "reference_values")?,
            phase_seconds: report
                .phase_seconds
                .ok_or_else(|| MessageError::missing("phase_seconds"))?
                .into(),
            peak_memory_bytes: report.peak_memory_bytes,
        })
    }
}

impl From<PartSums> for v1::PartSums {
    fn from(sums: PartSums) -> Self {
        Self { part: sums.part, sums: Some(sums.sums.into()) }
    }
}

impl TryFrom<v1::PartSums> for PartSums {
    type Error = MessageError;

    fn try_from(sums: v1::PartSums) -> Result<Self, MessageError> {
        let part = sums.part;
        Ok(Self { part, sums: sums.sums.ok_or_else(|| MessageError::missing("sums"))?.into() })
    }
}

impl From<PartKlSums> for v1::PartKlSums {
    fn from(PartKlSums { part, sums }: PartKlSums) -> Self {
        Self { part, sum: sums.sum, sum_of_squares: sums.sum_of_squares, count: sums.count }
    }
}

impl TryFrom<v1::PartKlSums> for PartKlSums {
    type Error = MessageError;

    fn try_from(sums: v1::PartKlSums) -> Result<Self, MessageError> {
        let v1::PartKlSums { part, sum, sum_of_squares, count } = sums;
        Ok(Self { part, sums: KlSums { sum, sum_of_squares, count } })
    }
}

/// Converts the parts of a rank, which are there and ascend.
pub(crate) fn part_list<A, B>(
    items: Vec<A>,
    part_of: impl Fn(&B) -> u32,
) -> Result<Vec<B>, MessageError>
where
    B: TryFrom<A, Error = MessageError>,
{
    let parts: Vec<B> = list(items, "parts")?;
    require(!parts.is_empty(), "parts", || "a rank has one part at least".to_owned())?;
    for (idx, pair) in parts.windows(2).enumerate() {
        let (part, next) = (part_of(&pair[0]), part_of(&pair[1]));
        require(part < next, &format!("parts[{}].part", idx + 1), || {
            format!("{next} does not follow {part}")
        })?;
    }
    Ok(parts)
}

/// Refuses step 0 in training.
pub(crate) fn require_step(step: u64, kind: ShardKind) -> Result<(), MessageError> {
    require(kind == ShardKind::Eval || step > 0, "step", || {
        "steps of training count from 1".to_owned()
    })
}
