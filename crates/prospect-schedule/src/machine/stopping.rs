//! The ends of a run that is not cut short: all done, or stopped on request
//! with a durable checkpoint of its last step.

use prospect_core::{Rank, Step, WorkerId};

use super::run::RunMachine;
use super::text::steps;
use super::{Action, Member, Phase};

/// A stop that is under way.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) reason: String,
    /// Last step that is done before the end; absent while no world could be told.
    pub(super) step: Option<Step>,
    /// How often the checkpoint of that step was ordered again after it had failed.
    pub(super) num_retries: u32,
}

/// How often a last checkpoint that could not be written is ordered again.
const MAX_RETRIES: u32 = 1;

impl RunMachine {
    pub(super) fn stop_requested(&mut self, reason: String) {
        if self.stop.is_some() {
            return;
        }
        let committed = self.pipeline.committed;
        if self.phase == Phase::Finishing {
            let message = format!("asked to stop ({reason}); all steps are done, so it finishes");
            return self.note("stop_requested", committed, message);
        }
        let is_at_work = self.is_at_work();
        let step = if is_at_work { self.pipeline.sent } else { committed };
        let message = format!("asked to stop ({reason}); no step after {step} is begun");
        self.note("stop_requested", committed, message);
        self.reason = format!("stopping after step {step} ({reason})");
        self.stop = Some(Stop { reason, step: None, num_retries: 0 });
        match self.phase {
            Phase::Waiting => self.stop_here(committed),
            Phase::Forming if self.is_nothing_to_save() => self.stop_here(committed),
            // Once the world has formed, it saves what is not saved.
            Phase::Forming => {}
            Phase::Recovering => self.form_when_ready(),
            _ => self.stop_at_work(),
        }
    }

    /// The world does what it was sent, saves its last step and leaves.
    pub(super) fn stop_at_work(&mut self) {
        let step = self.pipeline.sent;
        // Ranks that share the state begin again what failed only if all of them are told to.
        let has_failed = self.checkpoints.has_failed(step);
        let Some(stop) = &mut self.stop else { return };
        (stop.step, stop.num_retries) = (Some(step), u32::from(has_failed));
        self.reason = format!("stopping after step {step} ({})", stop.reason);
        self.order_last_checkpoint(step);
        self.advance();
    }

    fn order_last_checkpoint(&mut self, step: Step) {
        self.order_checkpoint(step);
        self.wind_watch();
        self.send_stop(None);
    }

    /// Tells the workers of the world, or one of them, to save the last step.
    pub(super) fn send_stop(&mut self, to: Option<WorkerId>) {
        let Some(Stop { reason, num_retries, .. }) = self.stop.clone() else { return };
        self.act(Action::SendStop { reason, num_retries, to });
    }

    /// Whether the checkpoint of the last step, which could not be written, is ordered once more.
    pub(super) fn saves_again(&mut self, step: Step) -> bool {
        let may_retry =
            |stop: &&mut Stop| stop.step == Some(step) && stop.num_retries < MAX_RETRIES;
        let Some(stop) = self.stop.as_mut().filter(may_retry) else { return false };
        stop.num_retries += 1;
        self.order_last_checkpoint(step);
        true
    }

    /// Whether the committed step is the beginning, or lies in a durable checkpoint.
    pub(super) fn is_nothing_to_save(&self) -> bool {
        let committed = self.pipeline.committed;
        committed == Step(0) || self.checkpoints.is_durable(committed)
    }

    /// The run ends where it stands: there is nothing to save, or nobody has it.
    pub(super) fn stop_here(&mut self, step: Step) {
        let Some(stop) = &mut self.stop else { return };
        stop.step = Some(step);
        self.send_stop(None);
        self.check_end();
    }

    /// Whether nothing more is expected of a worker but to go.
    pub(super) fn has_done_everything(&self, member: &Member) -> bool {
        let is_stopping = self.stop.as_ref().is_some_and(|stop| stop.step.is_some());
        if !is_stopping && self.phase != Phase::Finishing {
            return false;
        }
        let Some(rank) = self.members.rank_of(&member.worker) else { return true };
        // Whoever writes a part of them is needed until the last file is written.
        let writes = rank == Rank(0) || self.options.sharded;
        let holds_files = writes && !self.is_everything_durable();
        !holds_files
            && !self.checkpoints.is_writing(&member.worker)
            && self.first_owed(rank).is_none()
    }

    /// Whether every file that is to be written is.
    fn is_everything_durable(&self) -> bool {
        let trained = self.phase != Phase::Finishing || self.final_model.is_saved;
        trained && !self.checkpoints.any_pending()
    }

    /// Ends the run if nothing is left to do. The end is on record before anyone leaves: no
    /// coordinator that starts again waits for workers that are done.
    pub(super) fn check_end(&mut self) {
        if self.phase.is_terminal() {
            return;
        }
        let is_stopped = self.stop.as_ref().is_some_and(|stop| stop.step.is_some());
        let is_over = self.final_model.is_saved || is_stopped;
        let in_flight = self.pipeline.in_flight().next().is_some();
        if !is_over || in_flight || !self.is_everything_durable() {
            return;
        }
        match (self.final_model.is_saved, &self.stop) {
            (false, Some(stop)) => {
                let when = match self.pipeline.committed {
                    Step(0) => "before the first step".into(),
                    step => format!("after step {step}"),
                };
                let reason = format!("stopped {when} ({}); {}", stop.reason, self.how_to_go_on());
                self.enter(Phase::Stopped, reason);
            }
            _ => {
                let (steps, path) = (steps(self.options.total_steps), &self.options.final_path);
                let reason = format!("trained for {steps}; the model is in {path}");
                self.enter(Phase::Complete, reason);
            }
        }
        self.act(Action::SendClose);
    }
}
