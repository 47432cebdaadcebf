//! Checkpoints that come into their place, and the way back to one.

use prospect_core::Step;
use prospect_proto::CoordinatorMessage as Message;
use prospect_schedule::machine::{Event, Record, ResumePoint};

use super::Shell;
use super::jobs::{Done, Job};
use crate::CoordinatorError;
use crate::records::{History, StepRecords};
use crate::run_dir::checkpoints::Rejected;
use crate::run_dir::publish::Published;

/// Kind of the event of a checkpoint that is durable.
pub(crate) const CHECKPOINT_SAVED: &str = "checkpoint_saved";

/// Kind of the event of a checkpoint that cannot be used.
pub(crate) const CHECKPOINT_REJECTED: &str = "checkpoint_rejected";

/// Kind of the event of a return to a checkpoint.
pub(crate) const ROLLED_BACK: &str = "rolled_back";

/// A checkpoint that is not used, in words.
pub(crate) fn rejection(rejected: &Rejected) -> String {
    format!("{} is not used: {}", rejected.step.directory_name(), rejected.reason)
}

/// The checkpoint of a step as the machine is told of it.
pub(crate) fn resume_point(step: Option<Step>, history: &History) -> Option<ResumePoint> {
    let last_evaluation = history.last_evaluation().map(|point| point.step);
    step.map(|step| ResumePoint {
        step,
        path: format!("checkpoints/{}", step.directory_name()),
        evaluated: last_evaluation >= Some(step),
    })
}

impl Shell {
    /// Takes in what came of a job.
    pub(super) async fn job_done(&mut self, done: Done) -> Result<(), CoordinatorError> {
        let event = match done {
            Done::Published { step, result: Ok(published) } => {
                let Published { path, manifest_sha256, content_sha256 } = published;
                self.inner.contents.insert(step, content_sha256);
                Event::CheckpointPublished { step, path, manifest_sha256 }
            }
            Done::Published { step, result: Err(error) } => {
                Event::CheckpointRejected { step, reason: error.to_string() }
            }
            Done::FinalPublished(Ok(path)) => Event::FinalPublished { path },
            Done::FinalPublished(Err(error)) => Event::FinalRejected { reason: error.to_string() },
            Done::RestorePoint(choice) => {
                let choice = choice?;
                for rejected in &choice.rejected {
                    self.note(CHECKPOINT_REJECTED, rejected.step, &rejection(rejected))?;
                }
                let point = resume_point(choice.step, &self.history);
                Event::RestorePoint { point }
            }
            Done::Pruned { step, removed } => return self.pruned(step, removed),
            Done::RemovedStaged(removed) => {
                // A directory too much does no harm until the disk is full.
                match removed {
                    Ok(paths) => paths.iter().for_each(|path| {
                        tracing::info!(path = %path.display(), "removed what a worker left");
                    }),
                    Err(error) => tracing::warn!(%error, "while leftovers were removed"),
                }
                return Ok(());
            }
        };
        self.handle(event).await
    }

    /// Makes the records durable up to a checkpoint, then says that it exists,
    /// then removes the ones that are not to be kept.
    pub(super) fn checkpoint_durable(
        &mut self,
        step: Step,
        path: &str,
        manifest_sha256: String,
    ) -> Result<(), CoordinatorError> {
        self.files.steps.sync()?;
        self.pass("coordinator::durable_record")?;
        let record = Record::Checkpoint {
            step,
            manifest_sha256: manifest_sha256.clone(),
            content_sha256: self.inner.contents.remove(&step).unwrap_or_default(),
        };
        self.put_on_record(CHECKPOINT_SAVED, step, &format!("saved {path}"), record)?;
        self.files.journal.sync()?;
        self.send_all(&Message::CheckpointDurable { step });
        if let Some(mirror) = &self.inner.mirror {
            mirror.checkpoint_durable(step);
        }
        self.inner.jobs.push(Job::Retain { step, manifest_sha256 });
        Ok(())
    }

    fn pruned(
        &mut self,
        step: Step,
        removed: Result<Vec<Step>, CoordinatorError>,
    ) -> Result<(), CoordinatorError> {
        match removed {
            Ok(steps) => steps.into_iter().try_for_each(|step| {
                let message = format!("removed {}", step.directory_name());
                self.note("checkpoint_removed", step, &message)
            }),
            // One checkpoint too many does no harm until the disk is full.
            Err(error) => self.note("checkpoint_not_removed", step, &error.to_string()),
        }
    }

    /// Goes back to a checkpoint: what later steps have left is cut off the records.
    pub(super) fn roll_back(&mut self, step: Step, attempt: u64) -> Result<(), CoordinatorError> {
        let last = self.history.last_step().map_or(step, |metrics| metrics.step);
        let message = format!(
            "attempt {attempt} goes back from step {last} to step {step}: no worker has the weights of step {last} any more"
        );
        self.put_on_record(ROLLED_BACK, step, &message, Record::RolledBack { step, attempt })?;
        self.files.journal.sync()?;
        self.pass("coordinator::rollback")?;
        let keeps_reference_values = self.files.steps.cache.is_some();
        self.files.steps =
            StepRecords::open(&self.run_dir, step, keeps_reference_values, &self.history)?;
        self.effective.recount(&self.history.read().steps);
        self.inner.batches.clear();
        Ok(())
    }
}
