//! How a conversation ends, and with what exit code.

use prospect_core::ExitCode;
use prospect_proto::{FailureKind, Phase};
use tonic::Code;

use super::{Farewell, Session};
use crate::WorkerError;

impl Session {
    /// The end of the conversation. It is good where the run ended in good order or this process
    /// was let go as it had asked; else it is a failure of our own, or what `cause` says.
    pub(super) fn conclude(&mut self, cause: WorkerError) -> Result<ExitCode, WorkerError> {
        if let Some(Err(error)) = self.ended.take() {
            return Err(error);
        }
        let cause = self.in_words(cause);
        let ended = match cause {
            WorkerError::PutOff { ended, .. } => ended,
            _ => None,
        };
        let has_ended = self.closed || ended.is_some();
        let is_let_go = has_ended
            || matches!(
                cause,
                WorkerError::PutOff { .. }
                    | WorkerError::Fenced { .. }
                    | WorkerError::JoinRefused { .. }
            );
        match (self.farewell.take(), self.interrupted.take()) {
            (Some(Farewell::Finish), _) if has_ended => Ok(ExitCode::Complete),
            (Some(Farewell::Stop), _) if has_ended => Ok(ExitCode::Preempted),
            (_, Some(_)) if is_let_go => Ok(ExitCode::Preempted),
            (_, Some(reason)) => Err(WorkerError::Interrupted { reason, step: self.step() }),
            // A run that ended well ended well for whoever comes too late to hear it, too.
            (_, None) => match ended {
                Some(Phase::Complete) => Ok(ExitCode::Complete),
                Some(Phase::Stopped) => Ok(ExitCode::Preempted),
                _ => Err(cause),
            },
        }
    }

    /// What ended the run. A peer's death is seen by all ranks at once, and only
    /// the coordinator knows whose it was; any other failure of our own is the cause.
    pub(super) fn aborted(&mut self, reason: String, kind: FailureKind) -> WorkerError {
        if let Some(asked) = self.interrupted.take() {
            let reason = format!("{asked} ({reason})");
            return WorkerError::Interrupted { reason, step: self.step() };
        }
        match self.ended.take() {
            Some(Err(error)) if error.kind() != FailureKind::PeerLost => error,
            _ => WorkerError::Aborted { reason, kind },
        }
    }

    /// The coordinator left us without a word about the run.
    pub(super) fn left_alone(&self, reason: &str) -> WorkerError {
        WorkerError::LeftAlone {
            url: self.entrance.url.clone(),
            step: self.step(),
            reason: reason.to_owned(),
        }
    }

    /// A cause from the way to the coordinator, in the words of one who was in the run.
    fn in_words(&self, cause: WorkerError) -> WorkerError {
        let step = self.step();
        match cause {
            // It had been let in.
            WorkerError::JoinRefused { url, code: Code::FailedPrecondition, reason } => {
                WorkerError::Fenced { url, step, reason }
            }
            WorkerError::CoordinatorUnreachable { url, waited_seconds, reason } => {
                WorkerError::CoordinatorLost { url, step, waited_seconds, reason }
            }
            other => other,
        }
    }
}
