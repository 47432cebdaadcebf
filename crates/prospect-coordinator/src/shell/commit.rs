//! Putting steps and evaluations on record.

use std::time::SystemTime;

use prospect_core::StepMetrics;
use prospect_schedule::machine::{Commit, LedgerEntry, Record};

use super::Shell;
use crate::CoordinatorError;
use crate::hex::bits;
use crate::records::{Domain, STEP};

impl Shell {
    /// Reference values first, metrics next, the ledger last: a step that stands there has left
    /// all else behind, too.
    pub(super) fn commit_step(&mut self, commit: Commit) -> Result<(), CoordinatorError> {
        let step = commit.step;
        let now = self.inner.clock.now();
        self.inner.pace.step(now);
        self.effective.step(commit.phase_seconds.total);
        self.files.steps.num_tokens += commit.sums.num_tokens;
        let metrics = StepMetrics {
            grad_norm: Some(commit.grad_norm),
            learning_rate: Some(self.plans.planner().learning_rate(step)),
            ..self.metrics(&commit)
        };
        let entry = self.ledger_entry(&commit, &metrics);
        self.keep_reference_values(Domain::Train, &commit.reference_values, step)?;
        self.plot("train", &metrics)?;
        tracing::debug!(%step, loss = metrics.loss, kl = metrics.kl, "step");
        self.files.steps.metrics.record_step(metrics)?;
        self.files.journal.record(STEP, step, "", Some(Record::Step(entry)))?;
        self.pass("coordinator::step_record")
    }

    fn ledger_entry(&mut self, commit: &Commit, metrics: &StepMetrics) -> LedgerEntry {
        let Commit { step, generation, attempt, world_size, .. } = *commit;
        let later = self.inner.batches.split_off(&step.next());
        let planned = std::mem::replace(&mut self.inner.batches, later).remove(&step);
        let batch = planned.unwrap_or_else(|| self.plans.planner().batch(step));
        LedgerEntry {
            step,
            epoch: metrics.epoch,
            attempt,
            generation,
            world_size,
            rows: batch.rows.iter().map(|row| row.0).collect(),
            pairs_sha256: batch.pairs_sha256,
            loss: bits(metrics.loss),
            reference_point: bits(commit.point.z0),
            grad_norm: bits(commit.grad_norm),
            learning_rate: bits(self.plans.planner().learning_rate(step)),
        }
    }

    pub(super) fn commit_eval(&mut self, commit: Commit) -> Result<(), CoordinatorError> {
        let now = self.inner.clock.now();
        self.inner.pace.evaluation(now);
        if self.history.last_evaluation().is_some_and(|last| last.step >= commit.step) {
            return self.note("evaluated", commit.step, "the evaluation is on record already");
        }
        let metrics = self.metrics(&commit);
        self.keep_reference_values(Domain::Eval, &commit.reference_values, commit.step)?;
        self.plot("eval", &metrics)?;
        self.files.steps.metrics.record_evaluation(&metrics)?;
        let StepMetrics { loss, rewards_accuracies, .. } = metrics;
        let message = format!("evaluated: loss {loss:.4}, accuracy {rewards_accuracies:.3}");
        self.note("evaluated", commit.step, &message)
    }

    /// Adds values to TensorBoard's file. A run does not fail for the want of them.
    fn plot(&mut self, folder: &str, metrics: &StepMetrics) -> Result<(), CoordinatorError> {
        let events = &mut self.files.steps.tensorboard;
        let Err(error) = events.record(folder, metrics, SystemTime::now()) else { return Ok(()) };
        if std::mem::replace(&mut self.inner.noted_lack_of_plots, true) {
            return Ok(());
        }
        let message = format!("{:?} lacks values: {error}; the run goes on", events.path());
        self.note("tensorboard_failed", metrics.step, &message)
    }

    /// Divides the sums once.
    fn metrics(&self, commit: &Commit) -> StepMetrics {
        let Commit { step, world_size, sums, point, peak_memory_bytes, .. } = commit;
        let seconds = commit.phase_seconds.total;
        let rate = |amount: f64| (seconds > 0.0).then(|| amount / seconds);
        let num_tokens = (sums.num_tokens + sums.num_mismatched_tokens) as f64;
        StepMetrics {
            epoch: self.plans.planner().epochs_done(*step),
            num_tokens: self.files.steps.num_tokens,
            tokens_per_second: rate(num_tokens),
            mfu: self.peak_rate().and_then(|peak| rate(sums.flops / peak)),
            step_seconds: Some(seconds).filter(|seconds| *seconds > 0.0),
            waiting: rate(commit.waiting_seconds),
            peak_memory_bytes: Some(*peak_memory_bytes).filter(|bytes| *bytes > 0),
            world_size: *world_size,
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
}
