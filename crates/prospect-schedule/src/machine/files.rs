//! Files that workers have written, and what became of them.

use prospect_core::{Generation, Rank, Step, WorkerId};

use super::run::RunMachine;
use super::{Action, FailureKind, Member, Phase};

/// The trained model.
#[derive(Clone, Debug, Default)]
pub(super) struct Final {
    /// Whether it is being moved to its place.
    is_publishing: bool,
    /// Whether it lies there.
    pub(super) is_saved: bool,
    num_rejected: u32,
}

impl Final {
    /// Whether the next word is rank 0's.
    fn is_to_be_written(&self) -> bool {
        !self.is_publishing && !self.is_saved
    }
}

/// Checkpoints.
impl RunMachine {
    pub(super) fn checkpoint_written(
        &mut self,
        worker: &WorkerId,
        step: Step,
        path: String,
        manifest_sha256: String,
    ) {
        self.members.heard(worker, self.now);
        let is_present = self.members.get(worker).is_some_and(|member| member.is_present());
        if !is_present || step > self.pipeline.committed {
            let message = format!(
                "worker {worker} has written a checkpoint of step {step}; step {} is the last on \
                 record",
                self.pipeline.committed
            );
            return self.ignore(step, message);
        }
        // Of a worker that was at another attempt, only what it was asked for in this one.
        let is_doubtful = self.members.get(worker).is_some_and(|m| m.notes.was_outdated);
        if is_doubtful && !self.checkpoints.is_ordered_from(step, worker) {
            let message = format!("the checkpoint of step {step} by worker {worker} is outdated");
            return self.ignore(step, message);
        }
        if self.checkpoints.is_wanted(step) {
            self.checkpoints.publish(step);
            self.act(Action::PublishCheckpoint { step, path, manifest_sha256 });
        }
    }

    pub(super) fn checkpoint_published(
        &mut self,
        step: Step,
        path: String,
        manifest_sha256: String,
    ) {
        if !self.checkpoints.published(step) {
            return;
        }
        self.act(Action::CheckpointDurable { step, path, manifest_sha256 });
        if let Some(gathering) = &mut self.gathering {
            // What was found before, or is about to be, may be older.
            gathering.found = None;
            gathering.is_search_outdated = true;
        }
        self.files_settled();
    }

    pub(super) fn checkpoint_failed(
        &mut self,
        worker: &WorkerId,
        step: Step,
        num_retries: u32,
        message: &str,
    ) {
        self.members.heard(worker, self.now);
        // What was begun by another order has nothing to do with what is waited for.
        let stop = self.stop.as_ref().filter(|stop| stop.step == Some(step));
        let is_other = stop.is_some_and(|stop| stop.num_retries != num_retries);
        if is_other || !self.checkpoints.is_ordered_from(step, worker) {
            return;
        }
        let cause = format!("worker {worker} could not write it: {message}");
        let what = self.note_failed(step, &cause);
        if let Some(what) = what.filter(|_| !self.saves_again(step)) {
            self.go_without(step, &what);
        }
    }

    pub(super) fn checkpoint_rejected(&mut self, step: Step, reason: &str) {
        if self.checkpoints.rejected(step) {
            self.no_checkpoint(step, reason);
        }
    }

    /// While the run ends, a writer that does not get on is not waited for.
    pub(super) fn watch_writer(&mut self) {
        let is_ending = self.phase == Phase::Finishing
            || self.stop.as_ref().is_some_and(|stop| stop.step.is_some());
        if !is_ending || self.pipeline.in_flight().next().is_some() {
            return;
        }
        let timeout = self.options.step_timeout;
        let is_still = |member: &Member| self.now.saturating_sub(member.notes.active_at) > timeout;
        let limit = format!("coordinator.step_timeout_seconds = {}", timeout.as_secs_f64());
        if let Some((step, worker)) = self.checkpoints.first_order() {
            if self.members.get(&worker).is_some_and(is_still) {
                let cause =
                    format!("worker {worker} made no progress in writing it within {limit}");
                self.no_checkpoint(step, &cause);
            }
        } else if self.phase == Phase::Finishing && self.final_model.is_to_be_written() {
            let writer = self.members.of_rank(Rank(0)).filter(|member| is_still(member));
            if let Some(worker) = writer.map(|member| member.worker.clone()) {
                self.lose(&worker, &format!("it made no progress within {limit}"));
            }
        }
    }

    /// A checkpoint could not be had, and is not tried again.
    fn no_checkpoint(&mut self, step: Step, cause: &str) {
        if let Some(what) = self.note_failed(step, cause) {
            self.go_without(step, &what);
        }
    }

    /// Puts on record that a checkpoint could not be had, in words that are returned, unless that is
    /// known.
    fn note_failed(&mut self, step: Step, cause: &str) -> Option<String> {
        if !self.checkpoints.fail(step) {
            return None;
        }
        let what = format!("the checkpoint of step {step} failed: {cause}");
        self.note("checkpoint_failed", step, what.clone());
        Some(what)
    }

    /// A checkpoint could not be had. The one before it stays.
    fn go_without(&mut self, step: Step, what: &str) {
        let in_a_row = self.checkpoints.num_failed;
        let is_last = self.stop.as_ref().is_some_and(|stop| stop.step == Some(step));
        if is_last {
            return self.fail(FailureKind::Storage, what);
        }
        if self.options.checkpoint_fail_after.is_some_and(|limit| in_a_row >= limit) {
            let what = format!("{what}; {in_a_row} in a row is what checkpoint.fail_after allows");
            return self.fail(FailureKind::Storage, &what);
        }
        self.files_settled();
    }

    /// Someone may have waited for a file.
    fn files_settled(&mut self) {
        self.form_when_ready();
        self.advance();
        self.check_end();
    }
}

/// The trained model.
impl RunMachine {
    pub(super) fn final_written(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        path: String,
    ) {
        self.members.heard(worker, self.now);
        if !self.is_current(generation) {
            return;
        }
        let is_rank_0 = self.members.rank_of(worker) == Some(Rank(0));
        if self.phase != Phase::Finishing || !is_rank_0 {
            let message = format!("a trained model was written to {path} but not ordered");
            return self.ignore(self.pipeline.committed, message);
        }
        if self.final_model.is_to_be_written() {
            self.final_model.is_publishing = true;
            self.act(Action::PublishFinal { path });
        }
    }

    pub(super) fn final_published(&mut self, path: &str) {
        if !self.final_model.is_publishing {
            return;
        }
        self.final_model.is_publishing = false;
        self.final_model.is_saved = true;
        let message = format!("the trained model is in {path}");
        self.note("final_saved", self.pipeline.committed, message);
        self.check_end();
    }

    pub(super) fn final_rejected(&mut self, reason: &str) {
        if !self.final_model.is_publishing {
            return;
        }
        self.final_model.is_publishing = false;
        self.final_model.num_rejected += 1;
        let what = format!("the trained model could not be moved to its place: {reason}");
        self.note("final_failed", self.pipeline.committed, what.clone());
        if self.final_model.num_rejected > 1 {
            self.fail(FailureKind::Storage, &what);
        } else if self.phase == Phase::Finishing {
            // What was written lies where it was, or has been moved: rank 0 names it once more.
            self.wind_watch();
            self.send_finish(None);
        }
    }
}
