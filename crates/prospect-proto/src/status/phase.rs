//! Phases and worker states, to and from the wire.

use std::fmt;

use super::{Phase, WorkerState};
use crate::{MessageError, v1};

impl Phase {
    /// All phases.
    pub const ALL: [Self; 9] = [
        Self::Preparing,
        Self::Waiting,
        Self::Forming,
        Self::Training,
        Self::Evaluating,
        Self::Finishing,
        Self::Complete,
        Self::Stopped,
        Self::Failed,
    ];

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Stopped | Self::Failed)
    }

    /// The phase as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Waiting => "waiting",
            Self::Forming => "forming",
            Self::Training => "training",
            Self::Evaluating => "evaluating",
            Self::Finishing => "finishing",
            Self::Complete => "complete",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    pub(super) fn parse(number: i32) -> Result<Self, MessageError> {
        match v1::Phase::try_from(number) {
            Ok(v1::Phase::Preparing) => Ok(Self::Preparing),
            Ok(v1::Phase::Waiting) => Ok(Self::Waiting),
            Ok(v1::Phase::Forming) => Ok(Self::Forming),
            Ok(v1::Phase::Training) => Ok(Self::Training),
            Ok(v1::Phase::Evaluating) => Ok(Self::Evaluating),
            Ok(v1::Phase::Finishing) => Ok(Self::Finishing),
            Ok(v1::Phase::Complete) => Ok(Self::Complete),
            Ok(v1::Phase::Stopped) => Ok(Self::Stopped),
            Ok(v1::Phase::Failed) => Ok(Self::Failed),
            Ok(v1::Phase::Unspecified) | Err(_) => {
                Err(MessageError::new("phase", format!("{number} is no phase")))
            }
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Preparing => Self::Preparing,
            Phase::Waiting => Self::Waiting,
            Phase::Forming => Self::Forming,
            Phase::Training => Self::Training,
            Phase::Evaluating => Self::Evaluating,
            Phase::Finishing => Self::Finishing,
            Phase::Complete => Self::Complete,
            Phase::Stopped => Self::Stopped,
            Phase::Failed => Self::Failed,
        }
    }
}

impl WorkerState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Joined, Self::Forming, Self::Ready, Self::Left, Self::Lost];

    /// The state as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Forming => "forming",
            Self::Ready => "ready",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }

    pub(super) fn parse(number: i32) -> Result<Self, MessageError> {
        match v1::WorkerState::try_from(number) {
            Ok(v1::WorkerState::Joined) => Ok(Self::Joined),
            Ok(v1::WorkerState::Forming) => Ok(Self::Forming),
            Ok(v1::WorkerState::Ready) => Ok(Self::Ready),
            Ok(v1::WorkerState::Left) => Ok(Self::Left),
            Ok(v1::WorkerState::Lost) => Ok(Self::Lost),
            Ok(v1::WorkerState::Unspecified) | Err(_) => {
                Err(MessageError::new("state", format!("{number} is no state of a worker")))
            }
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<WorkerState> for v1::WorkerState {
    fn from(state: WorkerState) -> Self {
        match state {
            WorkerState::Joined => Self::Joined,
            WorkerState::Forming => Self::Forming,
            WorkerState::Ready => Self::Ready,
            WorkerState::Left => Self::Left,
            WorkerState::Lost => Self::Lost,
        }
    }
}
