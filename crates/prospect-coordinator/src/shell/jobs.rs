//! Work on the directories of checkpoints and of the trained model: one thing after the other
//! on a blocking thread, while the event loop goes on.

use std::collections::VecDeque;
use std::path::PathBuf;

use prospect_core::{Incarnation, Step};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::CoordinatorError;
use crate::run_dir::RunDir;
use crate::run_dir::checkpoints::{self, Choice, Retention};
use crate::run_dir::publish::{
    PublishError, Published, publish_checkpoint, publish_final, remove_staged,
};

/// One thing to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Move a checkpoint into its place.
    Publish {
        step: Step,
        /// Where it was written, relative to the run directory.
        staged: String,
        manifest_sha256: String,
    },
    /// Move the trained model into its place.
    PublishFinal {
        /// Where it was written, relative to the run directory.
        staged: String,
    },
    /// Look for the checkpoint that the run can go back to.
    FindRestorePoint {
        /// Last step on record.
        recorded: Step,
    },
    /// Count a checkpoint as one that is kept, and remove those that are not.
    Retain { step: Step, manifest_sha256: String },
    /// Remove what workers that are gone have left unfinished.
    RemoveStaged {
        /// Those that are not gone.
        present: Vec<Incarnation>,
    },
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum Done {
    /// The checkpoint lies in its place, or could not be moved there.
    Published { step: Step, result: Result<Published, PublishError> },
    /// The trained model lies in this place, or could not be moved there.
    FinalPublished(Result<String, PublishError>),
    /// What the run can go back to.
    RestorePoint(Result<Choice, CoordinatorError>),
    /// Checkpoints that were removed.
    Pruned { step: Step, removed: Result<Vec<Step>, CoordinatorError> },
    /// Unfinished directories that were removed.
    RemovedStaged(Result<Vec<PathBuf>, CoordinatorError>),
}

/// What is to be done, and what is being done.
#[derive(Debug)]
pub(super) struct Jobs {
    waiting: VecDeque<Job>,
    running: Option<JoinHandle<(Lane, Done)>>,
    /// Absent while a job runs.
    lane: Option<Lane>,
}

/// What a job works on.
#[derive(Debug)]
struct Lane {
    root: PathBuf,
    checkpoints: PathBuf,
    retention: Retention,
}

impl Jobs {
    /// Jobs in a run directory.
    pub(super) fn new(run_dir: &RunDir, retention: Retention) -> Self {
        let (root, checkpoints) = (run_dir.root().to_owned(), run_dir.checkpoints());
        let lane = Some(Lane { root, checkpoints, retention });
        Self { waiting: VecDeque::new(), running: None, lane }
    }

    /// Adds a job.
    pub(super) fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.start();
    }

    /// Whether something is to be done yet.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// What came of the job that runs. Ends only once there is one; nothing is lost when it is
    /// dropped before.
    ///
    /// # Errors
    /// A job that panicked.
    pub(super) async fn done(&mut self) -> Result<Done, CoordinatorError> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let result = running.await;
        self.running = None;
        let (lane, done) = result.map_err(|error| CoordinatorError::Internal {
            message: format!("work on the checkpoints failed: {error}"),
        })?;
        self.lane = Some(lane);
        self.start();
        Ok(done)
    }

    /// Waits until nothing is being done, and leaves the rest undone.
    pub(super) async fn idle(&mut self) {
        self.waiting.clear();
        if let Some(running) = self.running.take()
            && let Err(error) = running.await
        {
            tracing::warn!(%error, "work on the checkpoints failed");
        }
    }

    fn start(&mut self) {
        let Some(mut lane) = self.lane.take() else { return };
        match self.waiting.pop_front() {
            None => self.lane = Some(lane),
            Some(job) => {
                self.running = Some(spawn_blocking(move || {
                    let done = lane.carry_out(job);
                    (lane, done)
                }));
            }
        }
    }
}

impl Lane {
    fn carry_out(&mut self, job: Job) -> Done {
        match job {
            Job::Publish { step, staged, manifest_sha256 } => {
                let result = publish_checkpoint(&self.root, step, &staged, &manifest_sha256);
                Done::Published { step, result }
            }
            Job::PublishFinal { staged } => {
                Done::FinalPublished(publish_final(&self.root, &staged))
            }
            Job::FindRestorePoint { recorded } => {
                Done::RestorePoint(checkpoints::choose(&self.checkpoints, recorded))
            }
            Job::Retain { step, manifest_sha256 } => {
                self.retention.add(step, &manifest_sha256);
                Done::Pruned { step, removed: self.retention.prune() }
            }
            Job::RemoveStaged { present } => {
                Done::RemovedStaged(remove_staged(&self.root, &present))
            }
        }
    }
}
