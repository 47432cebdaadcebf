//! Putting steps, evaluations and checkpoints on record.

use std::time::SystemTime;

use prospect_core::{Step, StepMetrics};
use prospect_schedule::machine::Commit;

use super::Shell;
use crate::CoordinatorError;
use crate::records::Domain;

impl Shell {
    /// Reference values first, metrics last: a step whose metrics are on record
    /// has left all else behind, too.
    pub(super) fn commit_step(&mut self, commit: Commit) -> Result<(), CoordinatorError> {
        let step = commit.step;
        let now = self.inner.clock.now();
        self.inner.pace.step(now);
        self.num_tokens += commit.sums.num_tokens;
        let metrics = StepMetrics {
            grad_norm: Some(commit.grad_norm),
            learning_rate: Some(self.plans.planner().learning_rate(step)),
            ..self.metrics(&commit)
        };
        if let Some(cache) = &mut self.files.cache {
            cache.add(Domain::Train, &commit.reference_values, step)?;
        }
        self.files.tensorboard.record("train", &metrics, SystemTime::now())?;
        tracing::debug!(%step, loss = metrics.loss, kl = metrics.kl, "step");
        self.files.metrics.record_step(metrics)
    }

    pub(super) fn commit_eval(&mut self, commit: Commit) -> Result<(), CoordinatorError> {
        let now = self.inner.clock.now();
        self.inner.pace.evaluation(now);
        let metrics = self.metrics(&commit);
        if let Some(cache) = &mut self.files.cache {
            cache.add(Domain::Eval, &commit.reference_values, commit.step)?;
        }
        self.files.tensorboard.record("eval", &metrics, SystemTime::now())?;
        self.files.metrics.record_evaluation(&metrics)?;
        let StepMetrics { loss, rewards_accuracies, .. } = metrics;
        let message = format!("evaluated: loss {loss:.4}, accuracy {rewards_accuracies:.3}");
        self.note("evaluated", commit.step, &message)
    }

    /// Divides the sums once.
    fn metrics(&self, commit: &Commit) -> StepMetrics {
        let Commit { step, sums, point, phase_seconds, peak_memory_bytes, .. } = commit;
        let seconds = phase_seconds.total;
        let rate = |amount: f64| (seconds > 0.0).then(|| amount / seconds);
        let num_tokens = (sums.num_tokens + sums.num_mismatched_tokens) as f64;
        StepMetrics {
            epoch: self.plans.planner().epochs_done(*step),
            num_tokens: self.num_tokens,
            tokens_per_second: rate(num_tokens),
            mfu: self.peak_rate().and_then(|peak| rate(sums.flops / peak)),
            step_seconds: Some(seconds).filter(|seconds| *seconds > 0.0),
            peak_memory_bytes: Some(*peak_memory_bytes).filter(|bytes| *bytes > 0),
            world_size: self.machine.world_size(),
            ..StepMetrics::from_sums(*step, sums, point)
        }
    }

    /// Peak rate of all devices together, if it is known of each.
    fn peak_rate(&self) -> Option<f64> {
        let members = self.machine.members();
        let rates = members
            .iter()
            .filter(|member| member.rank.is_some())
            .map(|member| self.inner.workers.get(&member.worker)?.peak_flops_per_second);
        rates.sum::<Option<f64>>().filter(|rate| *rate > 0.0)
    }

    /// Makes the records durable up to a checkpoint, then says that it exists,
    /// then removes the ones that are not to be kept.
    pub(super) async fn checkpoint_durable(
        &mut self,
        step: Step,
        path: &str,
        manifest_sha256: &str,
    ) -> Result<(), CoordinatorError> {
        self.sync()?;
        if let Err(problem) = self.files.retention.add(step, manifest_sha256) {
            let message = format!(
                "{path} cannot be verified here ({problem}); the run directory has to be the same for coordinator and workers"
            );
            self.note("checkpoint_unverified", step, &message)?;
            return self.files.journal.sync();
        }
        self.note("checkpoint_saved", step, &format!("saved {path}"))?;
        self.files.journal.sync()?;
        let mut retention = self.files.retention.clone();
        let pruned = tokio::task::spawn_blocking(move || {
            let removed = retention.prune();
            (retention, removed)
        });
        let (retention, removed) = pruned.await.map_err(|error| CoordinatorError::Internal {
            message: format!("removing old checkpoints failed: {error}"),
        })?;
        self.files.retention = retention;
        match removed {
            Ok(steps) => {
                for step in steps {
                    let message = format!("removed {}", step.directory_name());
                    self.note("checkpoint_removed", step, &message)?;
                }
                Ok(())
            }
            // One checkpoint too many does no harm until the disk is full.
            Err(error) => self.note("checkpoint_not_removed", step, &error.to_string()),
        }
    }

    /// Waits until the records are on the disk.
    pub(super) fn sync(&mut self) -> Result<(), CoordinatorError> {
        if let Some(cache) = &mut self.files.cache {
            cache.sync()?;
        }
        self.files.metrics.sync()
    }
}
