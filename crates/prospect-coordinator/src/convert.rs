//! Between the words of the protocol and those of the state machine.

use prospect_core::{Rank, StepReport, WorkerId};
use prospect_proto::{self as proto, FromWorker, Refusal, WorkerMessage};
use prospect_schedule::machine::{Event, FailureKind, Phase, RefusalKind, WorkerState};

/// A phase of the machine in the words of the status.
pub(crate) fn phase(phase: Phase) -> proto::Phase {
    match phase {
        Phase::Preparing => proto::Phase::Preparing,
        Phase::Waiting => proto::Phase::Waiting,
        Phase::Forming => proto::Phase::Forming,
        Phase::Training => proto::Phase::Training,
        Phase::Evaluating => proto::Phase::Evaluating,
        Phase::Finishing => proto::Phase::Finishing,
        Phase::Complete => proto::Phase::Complete,
        Phase::Stopped => proto::Phase::Stopped,
        Phase::Failed => proto::Phase::Failed,
    }
}

/// A state of the machine in the words of the status.
pub(crate) fn worker_state(state: WorkerState) -> proto::WorkerState {
    match state {
        WorkerState::Joined => proto::WorkerState::Joined,
        WorkerState::Forming => proto::WorkerState::Forming,
        WorkerState::Ready => proto::WorkerState::Ready,
        WorkerState::Left => proto::WorkerState::Left,
        WorkerState::Lost => proto::WorkerState::Lost,
    }
}

/// The machine's refusal of a worker in the words of the protocol.
pub(crate) fn refusal(worker: &WorkerId, kind: RefusalKind, reason: String) -> Refusal {
    let kind = match kind {
        RefusalKind::Lasting => proto::RefusalKind::Lasting,
        RefusalKind::ForNow => proto::RefusalKind::ForNow,
    };
    Refusal::JoinRefused { worker: worker.clone(), kind, reason }
}

/// A failure of the machine in the words of the protocol.
pub(crate) fn failure_to_proto(kind: FailureKind) -> proto::FailureKind {
    match kind {
        FailureKind::Configuration => proto::FailureKind::Configuration,
        FailureKind::Corrupt => proto::FailureKind::Corrupt,
        FailureKind::Storage => proto::FailureKind::Storage,
        FailureKind::PeerLost => proto::FailureKind::PeerLost,
        FailureKind::NotFinite => proto::FailureKind::NotFinite,
        FailureKind::Internal => proto::FailureKind::Internal,
    }
}

fn failure_from_proto(kind: proto::FailureKind) -> FailureKind {
    match kind {
        proto::FailureKind::Configuration => FailureKind::Configuration,
        proto::FailureKind::Corrupt => FailureKind::Corrupt,
        proto::FailureKind::Storage => FailureKind::Storage,
        proto::FailureKind::PeerLost => FailureKind::PeerLost,
        proto::FailureKind::NotFinite => FailureKind::NotFinite,
        proto::FailureKind::Internal => FailureKind::Internal,
    }
}

/// What a worker said, as an event. `rank` is the sender's, where it has one;
/// without it, what only a rank can say is no event.
pub(crate) fn event(from: FromWorker, rank: Option<Rank>) -> Option<Event> {
    let worker = from.worker;
    Some(match from.message {
        WorkerMessage::Hello => return None,
        WorkerMessage::Heartbeat { step } => Event::Heartbeat { worker, step },
        WorkerMessage::StoreReady { host, port } => Event::StoreReady { worker, host, port },
        WorkerMessage::Ready { model_digest, resumed_step, .. } => {
            Event::Ready { worker, model_digest, resumed_step }
        }
        WorkerMessage::KlReport { step, kind, eval_index, sums } => {
            Event::KlReport { rank: rank?, step, kind, eval_index, sums }
        }
        WorkerMessage::StepReport(report) => {
            Event::StepReport(StepReport { rank: rank?, ..report })
        }
        WorkerMessage::CheckpointSaved { step, path, manifest_sha256 } => {
            rank.filter(|&rank| rank == Rank(0))?;
            Event::CheckpointSaved { step, path, manifest_sha256 }
        }
        WorkerMessage::FinalSaved { path } => {
            rank.filter(|&rank| rank == Rank(0))?;
            Event::FinalSaved { path }
        }
        WorkerMessage::Failure { step, message, kind } => {
            Event::Failure { worker, step, message, kind: failure_from_proto(kind) }
        }
        WorkerMessage::Leave { reason } => Event::Leave { worker, reason },
    })
}
