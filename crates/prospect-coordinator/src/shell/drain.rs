//! The end: everyone is told, the report is written, sessions get a bounded
//! time to close, and nothing stays behind.

use std::time::Duration;

use prospect_core::ExitCode;
use prospect_proto::{CoordinatorMessage as Message, FailureKind, Phase};
use prospect_schedule::machine::Record;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Command, Shell};
use crate::{CoordinatorError, report};

/// How long workers may take to leave.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Shell {
    /// Tells the workers that the coordinator itself cannot go on.
    pub(super) fn abandon(&mut self, error: &CoordinatorError) {
        let kind = match error.exit_code() {
            ExitCode::Usage => FailureKind::Configuration,
            ExitCode::Corrupt => FailureKind::Corrupt,
            ExitCode::Storage => FailureKind::Storage,
            _ => FailureKind::Internal,
        };
        let reason = format!("the coordinator cannot go on: {error}");
        tracing::error!("{reason}");
        self.send_all(&Message::Abort { reason: reason.clone(), kind });
        // The journal may be what failed. Room for it was waited for.
        self.files.journal.hurry();
        let step = self.machine.committed_step();
        let ended = Record::Ended { phase: Phase::Failed };
        let _ = self.put_on_record("coordinator_failed", step, &reason, ended);
        let _ = self.files.journal.sync();
        self.inner.failure = Some(reason);
        self.publish();
    }

    /// Waits for the work on the checkpoints, and takes in what it comes to.
    pub(super) async fn finish_jobs(&mut self) -> Result<(), CoordinatorError> {
        while self.inner.jobs.is_busy() {
            let done = self.inner.jobs.done().await?;
            self.job_done(done).await?;
        }
        Ok(())
    }

    /// Writes the report. A run does not fail for the want of it.
    pub(super) async fn write_report(&mut self) {
        let machine = &self.machine;
        let (phase, message) = match &self.inner.failure {
            Some(failure) => (Phase::Failed.to_string(), failure.clone()),
            None => (machine.phase().to_string(), machine.reason().to_owned()),
        };
        let summary = report::Summary {
            run_id: self.board.run_id().0.clone(),
            phase,
            message,
            step: machine.committed_step(),
            total_steps: machine.total_steps(),
            world_size: machine.world_size(),
            seconds: self.inner.clock.since_start().as_secs_f64(),
        };
        let root = self.run_dir.root().to_owned();
        let written = tokio::task::spawn_blocking(move || report::write(&root, &summary)).await;
        match written {
            Ok(Ok(path)) => tracing::info!(path = %path.display(), "wrote the report"),
            Ok(Err(error)) => tracing::warn!(%error, "the report was not written"),
            Err(error) => tracing::warn!(%error, "the report was not written"),
        }
    }

    /// Waits for the sessions to end, then lets go of those that have not.
    pub(super) async fn drain(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while !self.inner.sessions.is_empty() {
            let Ok(Some(command)) = timeout_at(deadline, commands.recv()).await else {
                let workers = self.inner.sessions.workers();
                tracing::warn!(?workers, "sessions that did not end in time are cut");
                break;
            };
            if let Err(error) = self.command(command).await {
                tracing::warn!(%error, "while the run was ending");
                break;
            }
        }
        self.publish();
    }

    /// Waits, for a bounded time, for the last copy of a checkpoint.
    pub(super) async fn close_mirror(&mut self) {
        let Some(mirror) = self.inner.mirror.take() else { return };
        for event in mirror.close().await {
            // The journal may be what failed.
            let _ = self.note(event.kind, event.step, &event.message);
        }
        let _ = self.files.journal.sync();
    }
}
