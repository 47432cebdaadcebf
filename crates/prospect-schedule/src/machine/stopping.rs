//! The ends of a run that is not cut short: all done, or stopped on request
//! with a durable checkpoint of its last step.

use prospect_core::{Step, WorkerId};

use super::run::{RunMachine, steps};
use super::{Action, Phase, WorkerState};

/// A stop that is under way.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) reason: String,
    /// Last step that is done before the end.
    step: Step,
}

impl RunMachine {
    pub(super) fn stop_requested(&mut self, reason: String) {
        let committed = self.pipeline.committed;
        if self.stop.is_some() {
            return;
        }
        if self.phase == Phase::Finishing {
            let message = format!("asked to stop ({reason}); all steps are done, so it finishes");
            return self.note("stop_requested", committed, message);
        }
        let step = self.pipeline.sent;
        let message = format!("asked to stop ({reason}); no step after {step} is begun");
        self.note("stop_requested", committed, message);
        self.act(Action::SendStop { reason: reason.clone() });
        self.reason = format!("stopping after step {step} ({reason})");
        self.stop = Some(Stop { reason, step });
        // Without a step of this run there is nothing to save.
        if matches!(self.phase, Phase::Training | Phase::Evaluating) {
            self.checkpoints.order(step);
        }
        self.check_end();
    }

    pub(super) fn worker_leaves(&mut self, worker: &WorkerId, reason: &str) {
        self.members.heard(worker, self.now);
        let Some(member) = self.members.get(worker) else { return };
        let who = member.describe();
        let is_done = self.has_done_everything(member);
        let is_ending = self.is_ending();
        if let Some(member) = self.members.get_mut(worker) {
            member.is_leaving = is_ending;
        }
        if is_done {
            if let Some(member) = self.members.get_mut(worker).filter(|m| m.is_present()) {
                member.state = WorkerState::Left;
                self.note("worker_left", self.pipeline.committed, format!("{who} left: {reason}"));
            }
            self.check_end();
        } else if self.phase == Phase::Waiting {
            self.lose(worker, &format!("it left: {reason}"));
        } else {
            // A world that is going to lose a worker stops in good order while it still can.
            self.stop_requested(format!("{who} has to leave: {reason}"));
        }
    }

    /// Whether no more shards go out.
    pub(super) fn is_ending(&self) -> bool {
        self.stop.is_some() || self.phase == Phase::Finishing
    }

    /// Ends the run if nothing is left to do and its workers have left. They are
    /// given some time for that: a session that closes under a worker looks to
    /// it like a loss.
    pub(super) fn check_end(&mut self) {
        let is_ending = self.is_ending();
        let in_flight = self.pipeline.in_flight().next().is_some();
        if self.phase.is_terminal() || !is_ending || in_flight || !self.is_everything_durable() {
            return;
        }
        let since = *self.done_since.get_or_insert(self.now);
        let members = self.members.sorted();
        let is_awaited = members
            .iter()
            .any(|member| member.has_session && member.is_present() && !member.is_leaving);
        if is_awaited && self.now.saturating_sub(since) < self.options.grace {
            return;
        }
        self.act(Action::SendClose);
        match &self.stop {
            None => {
                let (steps, path) = (steps(self.options.total_steps), &self.options.final_path);
                let reason = format!("trained for {steps}; the model is in {path}");
                self.enter(Phase::Complete, reason);
            }
            Some(stop) => {
                let when = match stop.step {
                    Step(0) => "before the first step".into(),
                    step => format!("after step {step}"),
                };
                let reason = format!("stopped {when} ({}); {}", stop.reason, self.how_to_go_on());
                self.enter(Phase::Stopped, reason);
            }
        }
    }
}
