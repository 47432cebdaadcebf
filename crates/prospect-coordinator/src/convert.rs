//! Between the words of the protocol and those of the state machine.

use prospect_core::{Rank, RefusalKind, StepReport, WorkerId};
use prospect_proto::{FromWorker, Refusal, WorkerMessage};
use prospect_schedule::machine::Event;

/// The machine's refusal of a worker in the words of the protocol.
pub(crate) fn refusal(worker: &WorkerId, kind: RefusalKind, reason: String) -> Refusal {
    Refusal::JoinRefused { worker: worker.clone(), kind, reason }
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
            Event::Failure { worker, step, message, kind }
        }
        WorkerMessage::Leave { reason } => Event::Leave { worker, reason },
    })
}
