//! A worker that is alive and does not get on is lost, too; one that waits for it is not.

use prospect_core::{Rank, Step, StepPhase, WorkerId};

use super::run::RunMachine;

/// Whether a worker in this phase waits for others.
fn is_waiting(phase: StepPhase) -> bool {
    use StepPhase::{AllReduce, Commit, Forming, Idle, ReferencePoint};
    matches!(phase, Idle | Forming | ReferencePoint | AllReduce | Commit)
}

/// A worker that owes a report.
struct Owing {
    worker: WorkerId,
    rank: Rank,
    step: Step,
    phase: StepPhase,
    is_still: bool,
}

impl RunMachine {
    /// Every worker of the world has a reason to move from this moment on.
    pub(super) fn wind_watch(&mut self) {
        let now = self.now;
        for member in self.members.present_mut() {
            member.notes.active_at = now;
        }
    }

    pub(super) fn saw_progress(&mut self, worker: &WorkerId) {
        let now = self.now;
        if let Some(member) = self.members.get_mut(worker) {
            member.notes.active_at = now;
        }
    }

    /// Looks for a worker that does not get on.
    pub(super) fn watch(&mut self) {
        if !self.is_at_work() || self.adoption.is_some() {
            return;
        }
        let timeout = self.options.step_timeout;
        let owing: Vec<Owing> = self
            .members
            .world()
            .filter(|member| member.has_session)
            .filter_map(|member| {
                let rank = member.rank?;
                let step = self.first_owed(rank)?.step;
                let stillness = self.now.saturating_sub(member.notes.active_at);
                let (worker, phase) = (member.worker.clone(), member.phase);
                Some(Owing { worker, rank, step, phase, is_still: stillness > timeout })
            })
            .collect();
        let seconds = timeout.as_secs_f64();
        let limit = format!("within coordinator.step_timeout_seconds = {seconds}");
        if let Some(stuck) = owing.iter().find(|o| o.is_still && !is_waiting(o.phase)) {
            // Worker, rank and step are named with every loss.
            let cause = format!("it made no progress in the phase {} {limit}", stuck.phase);
            return self.lose(&stuck.worker, &cause);
        }
        if let Some(first) = owing.first().filter(|_| owing.iter().all(|o| o.is_still)) {
            let step = first.step;
            let phases: Vec<String> =
                owing.iter().map(|o| format!("rank {}: {}", o.rank, o.phase)).collect();
            let phases = phases.join(", ");
            self.recover(&format!("all wait in step {step} ({phases}) {limit}"), 0);
        }
    }
}
