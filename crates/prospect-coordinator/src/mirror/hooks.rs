//! Where the coordinator meets its mirror: a task that copies checkpoints in the background.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prospect_core::{CheckpointConfig, Step};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::records::{self, OpenRecord};
use super::upload::Uploaded;
use super::{Mirror, MirrorError};
use crate::run_dir::RunDir;

/// Kind of the event of a checkpoint that was copied.
pub(super) const MIRRORED: &str = "checkpoint_mirrored";
/// Kind of the event of a checkpoint that could not be copied.
pub(super) const FAILED: &str = "mirror_failed";
/// How long a copy may take when the run has ended.
const LAST_COPY_TIMEOUT: Duration = Duration::from_secs(60);

/// Something that the mirror's task has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MirrorEvent {
    /// Kind of the event.
    pub(crate) kind: &'static str,
    /// The checkpoint's step.
    pub(crate) step: Step,
    /// In words.
    pub(crate) message: String,
}

/// The task that copies checkpoints, one at a time; of those that wait only the newest counts.
#[derive(Debug)]
pub(crate) struct MirrorHandle {
    root: PathBuf,
    jobs: Option<watch::Sender<Option<Arc<Job>>>>,
    events: mpsc::UnboundedReceiver<MirrorEvent>,
    tell: mpsc::UnboundedSender<MirrorEvent>,
    task: JoinHandle<()>,
}

/// A checkpoint to be copied.
#[derive(Debug)]
struct Job {
    step: Step,
    dir: PathBuf,
    records: Vec<OpenRecord>,
}

/// Starts the task, if there is a mirror.
///
/// # Errors
/// A URL that cannot be used.
pub(crate) fn start(
    config: &CheckpointConfig,
    run_dir: &RunDir,
) -> Result<Option<MirrorHandle>, MirrorError> {
    let Some(url) = &config.mirror else { return Ok(None) };
    Ok(Some(MirrorHandle::new(Mirror::open(url)?, config.keep, run_dir.root())))
}

/// The next event of a mirror's task; without a mirror there is none, ever. Nothing is lost when
/// it is dropped before.
pub(crate) async fn next_event(mirror: &mut Option<MirrorHandle>) -> MirrorEvent {
    if let Some(mirror) = mirror
        && let Some(event) = mirror.events.recv().await
    {
        return event;
    }
    std::future::pending().await
}

impl MirrorHandle {
    pub(super) fn new(mirror: Mirror, keep: u32, root: &Path) -> Self {
        let (jobs, waiting) = watch::channel(None);
        let (tell, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(copy_all(mirror, keep, waiting, tell.clone()));
        Self { root: root.to_owned(), jobs: Some(jobs), events, tell, task }
    }

    /// Hands over the checkpoint of a step that is durable and on record, with the records as
    /// they are at this moment. Costs a few calls to the file system.
    pub(crate) fn checkpoint_durable(&self, step: Step) {
        let Some(jobs) = &self.jobs else { return };
        match records::open(&self.root) {
            Ok(records) => {
                let dir = self.root.join("checkpoints").join(step.directory_name());
                jobs.send_replace(Some(Arc::new(Job { step, dir, records })));
            }
            Err(error) => {
                let message = format!("{} is not copied: {error}", step.directory_name());
                // The receiver is this handle's own.
                let _ = self.tell.send(MirrorEvent { kind: FAILED, step, message });
            }
        }
    }

    /// Waits for the copy that is being made and the one that waits, and returns what there is to
    /// tell.
    pub(crate) async fn close(mut self) -> Vec<MirrorEvent> {
        let last = self.jobs.take().and_then(|jobs| jobs.borrow().as_ref().map(|job| job.step));
        if let Some(step) = last.filter(|_| !self.task.is_finished()) {
            tracing::info!(%step, "waiting for the last copy of a checkpoint");
        }
        if timeout(LAST_COPY_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
            let step = last.unwrap_or_default();
            let seconds = LAST_COPY_TIMEOUT.as_secs();
            let message = format!("{} was not copied within {seconds} s", step.directory_name());
            let _ = self.tell.send(MirrorEvent { kind: FAILED, step, message });
        }
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            told.push(event);
        }
        told
    }
}

/// Copies one checkpoint after the other until there is nobody to hand one over.
async fn copy_all(
    mirror: Mirror,
    keep: u32,
    mut waiting: watch::Receiver<Option<Arc<Job>>>,
    tell: mpsc::UnboundedSender<MirrorEvent>,
) {
    let (mut num_copied, mut num_failed) = (0_u64, 0_u64);
    while waiting.changed().await.is_ok() {
        let Some(job) = waiting.borrow_and_update().clone() else { continue };
        let started = Instant::now();
        let name = job.step.directory_name();
        let (kind, message) = match mirror.upload(job.step, &job.dir, &job.records).await {
            Ok(Uploaded { num_files, bytes }) => {
                num_copied += 1;
                num_failed = 0;
                let seconds = started.elapsed().as_secs_f64();
                let megabytes = bytes as f64 / 1e6;
                let to = &mirror.name;
                let copied = match num_files {
                    0 => format!("{name} is in {to} already"),
                    _ => format!(
                        "copied {name} to {to}: {num_files} files, {megabytes:.1} MB in {seconds:.1} s"
                    ),
                };
                (MIRRORED, format!("{copied}; {num_copied} copied since the start"))
            }
            // Replaced by a newer one, which waits or will come.
            Err(MirrorError::Storage { .. } | MirrorError::Differs { .. }) if !job.dir.exists() => {
                continue;
            }
            Err(error) => {
                num_failed += 1;
                let message = format!(
                    "{name} is not copied: {error}; {num_failed} in a row were not, the run goes on"
                );
                (FAILED, message)
            }
        };
        let event = MirrorEvent { kind, step: job.step, message };
        if tell.send(event).is_err() {
            return;
        }
        if let Err(error) = mirror.prune(keep).await {
            // A copy too many does no harm.
            tracing::warn!(%error, "old copies of checkpoints were not removed");
        }
    }
}
