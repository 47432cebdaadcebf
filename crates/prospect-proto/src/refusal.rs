//! The one table from reasons to refuse a call to gRPC codes. Every status
//! carries an `ErrorInfo` with a reason that programs can compare.

use std::collections::HashMap;

use prospect_core::{Phase, RefusalKind, WorkerId};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::MessageError;

/// Key under which the phase of a run that has ended stands in `google.rpc.ErrorInfo`.
const PHASE: &str = "phase";
/// Domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "prospect";

/// Why a server refuses a call or ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message means nothing.
    #[error("malformed message: {0}")]
    Malformed(#[from] MessageError),
    /// A newer process has taken the worker's place.
    #[error(
        "worker {worker} was replaced by a newer process of the same name; this one has to end"
    )]
    StaleIncarnation {
        /// The worker.
        worker: WorkerId,
    },
    /// The run does not take the worker.
    #[error("worker {worker} cannot join: {reason}")]
    JoinRefused {
        /// The worker.
        worker: WorkerId,
        /// Whether it may try again.
        kind: RefusalKind,
        /// Why, and what to change.
        reason: String,
    },
    /// The run is over.
    #[error("the run has ended: {reason}")]
    RunEnded {
        /// The phase that it ended in.
        phase: Phase,
        /// How.
        reason: String,
    },
    /// A reader asked for a history that is kept elsewhere or is damaged.
    #[error("the record cannot be read: {reason}")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// A message that is out of order.
    #[error("message out of order: {reason}")]
    OutOfOrder {
        /// What was expected.
        reason: String,
    },
}

impl Refusal {
    /// The phase that a run ended in, if that is what a status says.
    pub fn ending(status: &Status) -> Option<Phase> {
        let info = status.get_details_error_info()?;
        let phase = info.metadata.get(PHASE)?;
        Phase::ALL.into_iter().find(|known| known.name() == phase)
    }

    /// The refusal of a message with a field that means nothing.
    pub fn malformed(field: &str, problem: String) -> Self {
        Self::Malformed(MessageError::new(field, problem))
    }

    /// The refusal of a coordinator that is about to go away.
    pub fn closing() -> Self {
        Self::RunEnded { phase: Phase::Failed, reason: "the coordinator is closing".to_owned() }
    }

    /// Code and reason of each refusal. `Aborted` is what a worker may answer by
    /// joining again.
    fn table(&self) -> (Code, &'static str) {
        match self {
            Self::Malformed(_) => (Code::InvalidArgument, "MALFORMED_MESSAGE"),
            Self::StaleIncarnation { .. } => (Code::FailedPrecondition, "STALE_INCARNATION"),
            Self::JoinRefused { kind: RefusalKind::Lasting, .. } => {
                (Code::FailedPrecondition, "JOIN_REFUSED")
            }
            Self::JoinRefused { kind: RefusalKind::ForNow, .. } => (Code::Aborted, "JOIN_PUT_OFF"),
            Self::RunEnded { .. } => (Code::Aborted, "RUN_ENDED"),
            Self::Unreadable { .. } => (Code::DataLoss, "UNREADABLE_RECORD"),
            Self::OutOfOrder { .. } => (Code::InvalidArgument, "OUT_OF_ORDER"),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = refusal.table();
        let mut metadata = HashMap::new();
        if let Refusal::RunEnded { phase, .. } = &refusal {
            metadata.insert(PHASE.to_owned(), phase.name().to_owned());
        }
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if let Refusal::Malformed(error) = &refusal {
            details.add_bad_request_violation(error.field.as_str(), error.problem.as_str());
        }
        Self::with_error_details(code, refusal.to_string(), details)
    }
}
