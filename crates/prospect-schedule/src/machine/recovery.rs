//! The world is broken up; whoever remains stands by under the next generation.

use prospect_core::{Generation, Step, WorkerId};

use super::gathering::Gathering;
use super::run::RunMachine;
use super::{Action, FailureKind, Phase, ResumePoint, WorkerState};

impl RunMachine {
    /// Breaks the world up because it does not get on. Ends the run if that has happened too
    /// often without getting further in between.
    pub(super) fn recover(&mut self, cause: &str, wanted: u32) {
        self.losses.without_progress += 1;
        let (times, furthest) = (self.losses.without_progress, self.losses.furthest);
        if times >= self.options.max_failures_without_progress {
            let what = format!(
                "the world was broken up {times} times without getting beyond step {furthest}, which \
                 is what coordinator.max_failures_without_progress allows; the last time because \
                 {cause}"
            );
            return self.fail(FailureKind::NoProgress, &what);
        }
        // Steps that are done again after a roll-back are progress, once they go beyond where the
        // world broke. One that broke before it was at work has not shown how far it gets.
        if self.is_at_work() {
            self.losses.furthest = self.pipeline.committed;
        }
        self.regroup(cause, wanted);
    }

    /// Breaks the world up: raises the generation, tells all to stand by, and forms again with
    /// `wanted` workers, or with those that remain where it is 0.
    pub(super) fn regroup(&mut self, cause: &str, wanted: u32) {
        self.break_up(cause, Gathering::new(self.now, wanted));
    }

    /// The same, to go on from a checkpoint that was found.
    fn regroup_from(&mut self, cause: &str, found: Option<Option<ResumePoint>>) {
        self.break_up(cause, Gathering { found, ..Gathering::new(self.now, 0) });
    }

    fn break_up(&mut self, cause: &str, gathering: Gathering) {
        let (now, committed) = (self.now, self.pipeline.committed);
        let generation = Generation(self.world.generation.0 + 1);
        self.world.generation = generation;
        self.world.store = None;
        self.adoption = None;
        self.suspicion = None;
        self.passes.clear();
        self.pipeline.rewind();
        // Whoever has begun to write goes on, and what it writes is welcome; but a worker whose
        // commit was on its way has not begun, and will not.
        self.checkpoints.drop_orders();
        if let Some(stop) = &mut self.stop {
            stop.step = None;
        }
        self.members.dissolve_world();
        for member in self.members.present_mut().filter(|member| member.notes.has_weights) {
            member.set_stage(WorkerState::Loaded);
            member.notes.asked_to_stand = Some(now);
            member.notes.stands_at = None;
        }
        let reason = cause.to_owned();
        self.act(Action::Regroup { generation, committed, reason, to: None });
        self.gathering = Some(gathering);
        self.enter(Phase::Recovering, format!("generation {generation} gathers: {cause}"));
        self.let_leavers_go();
        self.form_when_ready();
    }

    /// Workers that the world aims at after a loss: as many as it had, or as it shall have.
    pub(super) fn full_size(&self) -> u32 {
        self.world.size.max(self.options.target)
    }

    pub(super) fn worker_stands(&mut self, worker: &WorkerId, generation: Generation, step: Step) {
        self.members.heard(worker, self.now);
        let is_current = self.is_current(generation);
        let committed = self.pipeline.committed;
        let is_member = self.members.rank_of(worker).is_some();
        // In a world that forms, what a worker has is settled by what it was told to restore.
        let Some(member) = self.members.get_mut(worker).filter(|m| m.is_present()) else { return };
        if !is_current || is_member || member.notes.asked_to_stand.is_none() {
            return;
        }
        member.notes.asked_to_stand = None;
        // Whoever stands has a model in memory, said to this coordinator or to an earlier one.
        if member.stage() == WorkerState::Joined {
            member.set_stage(WorkerState::Loaded);
        }
        // What is beyond the record was given up, too.
        if step > committed {
            member.outdate();
        }
        member.notes.stands_at = Some(step).filter(|_| !member.notes.is_outdated);
        member.step = step;
        self.gathering_changed();
        self.form_when_ready();
        self.advance();
    }

    pub(super) fn restore_point(&mut self, point: Option<ResumePoint>) {
        let committed = self.pipeline.committed;
        let is_publishing = self.checkpoints.is_any_publishing();
        let Some(gathering) = self.gathering.as_mut().filter(|g| g.is_searching) else {
            let message = "a restore point was found that is not looked for".to_owned();
            return self.ignore(committed, message);
        };
        gathering.is_searching = false;
        if gathering.is_search_outdated {
            return self.form_when_ready();
        }
        if is_publishing {
            // There may be a newer one in a moment.
            return;
        }
        if let Some(beyond) = point.as_ref().filter(|point| point.step > committed) {
            let what = format!(
                "the checkpoint {} was taken after step {}, but step {committed} is the last on \
                 record",
                beyond.path, beyond.step
            );
            return self.fail(FailureKind::Corrupt, &what);
        }
        gathering.found = Some(point);
        self.form_when_ready();
    }

    /// Nobody has the committed weights: what comes after the checkpoint is done again.
    pub(super) fn roll_back(&mut self, point: Option<ResumePoint>) {
        if self.checkpoints.is_any_publishing() {
            // There may be a newer one in a moment, and it must not outlive its step.
            return;
        }
        let from = self.pipeline.committed;
        let step = point.as_ref().map_or(Step(0), |point| point.step);
        let evaluated = point.as_ref().is_some_and(|point| point.evaluated);
        self.world.attempt += 1;
        let attempt = self.world.attempt;
        self.pipeline.go_back(step, evaluated);
        self.checkpoints.go_back(step);
        self.world.attempt_generation = Generation(self.world.generation.0 + 1);
        for member in self.members.present_mut().filter(|member| member.notes.has_weights) {
            member.outdate();
        }
        self.act(Action::RollBack { step, attempt });
        let cause = format!(
            "no worker has the weights of step {from}: attempt {attempt} goes on after step {step}"
        );
        self.note("rolled_back", step, cause.clone());
        // Under a generation of its own, so that no one mistakes weights of the earlier attempt
        // for those of this one.
        self.regroup_from(&cause, Some(point));
    }
}
