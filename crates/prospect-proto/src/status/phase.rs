//! Phases and worker states, to and from the wire.

use prospect_core::{Phase, WorkerState};

use crate::{MessageError, v1};

pub(super) fn parse_phase(number: i32) -> Result<Phase, MessageError> {
    match v1::Phase::try_from(number) {
        Ok(v1::Phase::Preparing) => Ok(Phase::Preparing),
        Ok(v1::Phase::Waiting) => Ok(Phase::Waiting),
        Ok(v1::Phase::Forming) => Ok(Phase::Forming),
        Ok(v1::Phase::Recovering) => Ok(Phase::Recovering),
        Ok(v1::Phase::Training) => Ok(Phase::Training),
        Ok(v1::Phase::Evaluating) => Ok(Phase::Evaluating),
        Ok(v1::Phase::Finishing) => Ok(Phase::Finishing),
        Ok(v1::Phase::Complete) => Ok(Phase::Complete),
        Ok(v1::Phase::Stopped) => Ok(Phase::Stopped),
        Ok(v1::Phase::Failed) => Ok(Phase::Failed),
        Ok(v1::Phase::Unspecified) | Err(_) => {
            Err(MessageError::new("phase", format!("{number} is no phase")))
        }
    }
}

pub(super) fn parse_worker_state(number: i32) -> Result<WorkerState, MessageError> {
    match v1::WorkerState::try_from(number) {
        Ok(v1::WorkerState::Joined) => Ok(WorkerState::Joined),
        Ok(v1::WorkerState::Loaded) => Ok(WorkerState::Loaded),
        Ok(v1::WorkerState::Forming) => Ok(WorkerState::Forming),
        Ok(v1::WorkerState::Ready) => Ok(WorkerState::Ready),
        Ok(v1::WorkerState::Away) => Ok(WorkerState::Away),
        Ok(v1::WorkerState::Left) => Ok(WorkerState::Left),
        Ok(v1::WorkerState::Lost) => Ok(WorkerState::Lost),
        Ok(v1::WorkerState::Unspecified) | Err(_) => {
            Err(MessageError::new("state", format!("{number} is no state of a worker")))
        }
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Preparing => Self::Preparing,
            Phase::Waiting => Self::Waiting,
            Phase::Forming => Self::Forming,
            Phase::Recovering => Self::Recovering,
            Phase::Training => Self::Training,
            Phase::Evaluating => Self::Evaluating,
            Phase::Finishing => Self::Finishing,
            Phase::Complete => Self::Complete,
            Phase::Stopped => Self::Stopped,
            Phase::Failed => Self::Failed,
        }
    }
}

impl From<WorkerState> for v1::WorkerState {
    fn from(state: WorkerState) -> Self {
        match state {
            WorkerState::Joined => Self::Joined,
            WorkerState::Loaded => Self::Loaded,
            WorkerState::Forming => Self::Forming,
            WorkerState::Ready => Self::Ready,
            WorkerState::Away => Self::Away,
            WorkerState::Left => Self::Left,
            WorkerState::Lost => Self::Lost,
        }
    }
}
