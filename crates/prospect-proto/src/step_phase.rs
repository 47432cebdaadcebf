//! What a worker is doing, to and from the wire.

use prospect_core::StepPhase;

use crate::{MessageError, v1};

pub(crate) fn parse_step_phase(number: i32, field: &str) -> Result<StepPhase, MessageError> {
    match v1::StepPhase::try_from(number) {
        Ok(v1::StepPhase::Idle) => Ok(StepPhase::Idle),
        Ok(v1::StepPhase::Loading) => Ok(StepPhase::Loading),
        Ok(v1::StepPhase::Forming) => Ok(StepPhase::Forming),
        Ok(v1::StepPhase::Scoring) => Ok(StepPhase::Scoring),
        Ok(v1::StepPhase::ReferencePoint) => Ok(StepPhase::ReferencePoint),
        Ok(v1::StepPhase::ForwardBackward) => Ok(StepPhase::ForwardBackward),
        Ok(v1::StepPhase::AllReduce) => Ok(StepPhase::AllReduce),
        Ok(v1::StepPhase::Commit) => Ok(StepPhase::Commit),
        Ok(v1::StepPhase::Optimizer) => Ok(StepPhase::Optimizer),
        Ok(v1::StepPhase::Saving) => Ok(StepPhase::Saving),
        Ok(v1::StepPhase::Unspecified) | Err(_) => {
            Err(MessageError::new(field, format!("{number} is no phase of a step")))
        }
    }
}

impl From<StepPhase> for v1::StepPhase {
    fn from(phase: StepPhase) -> Self {
        match phase {
            StepPhase::Idle => Self::Idle,
            StepPhase::Loading => Self::Loading,
            StepPhase::Forming => Self::Forming,
            StepPhase::Scoring => Self::Scoring,
            StepPhase::ReferencePoint => Self::ReferencePoint,
            StepPhase::ForwardBackward => Self::ForwardBackward,
            StepPhase::AllReduce => Self::AllReduce,
            StepPhase::Commit => Self::Commit,
            StepPhase::Optimizer => Self::Optimizer,
            StepPhase::Saving => Self::Saving,
        }
    }
}
