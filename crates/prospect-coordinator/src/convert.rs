//! Between the words of the protocol and those of the state machine.

use prospect_core::{RefusalKind, WorkerId};
use prospect_proto::{FromWorker, Refusal, WorkerMessage};
use prospect_schedule::machine::Event;

/// The machine's refusal of a worker in the words of the protocol.
pub(crate) fn refusal(worker: &WorkerId, kind: RefusalKind, reason: String) -> Refusal {
    Refusal::JoinRefused { worker: worker.clone(), kind, reason }
}

/// What a worker said, as an event. A second greeting is none.
pub(crate) fn event(from: FromWorker) -> Option<Event> {
    let FromWorker { worker, generation, message, .. } = from;
    Some(match message {
        WorkerMessage::Hello { .. } => return None,
        WorkerMessage::Heartbeat { step, phase, progress } => {
            Event::Heartbeat { worker, step, phase, progress }
        }
        WorkerMessage::Loaded { model_digest, .. } => Event::Loaded { worker, model_digest },
        WorkerMessage::StoreReady { host, port } => {
            Event::StoreReady { worker, generation, host, port }
        }
        WorkerMessage::Standing { step } => Event::Standing { worker, generation, step },
        WorkerMessage::Ready { step } => Event::Ready { worker, generation, step },
        WorkerMessage::KlReport { step, kind, eval_index, parts } => {
            Event::KlReport { worker, generation, step, kind, eval_index, parts }
        }
        WorkerMessage::StepReport(report) => Event::StepReport { worker, generation, report },
        WorkerMessage::CheckpointWritten { step, path, manifest_sha256 } => {
            Event::CheckpointWritten { worker, step, path, manifest_sha256 }
        }
        WorkerMessage::CheckpointFailed { step, num_retries, message } => {
            Event::CheckpointFailed { worker, step, num_retries, message }
        }
        WorkerMessage::FinalWritten { path } => Event::FinalWritten { worker, generation, path },
        WorkerMessage::Failure { step, message, kind } => {
            Event::Failure { worker, generation, step, message, kind }
        }
        WorkerMessage::Leave { reason } => Event::Leave { worker, reason },
    })
}
