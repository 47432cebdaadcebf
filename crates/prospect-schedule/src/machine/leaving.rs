//! The world changes in good order: workers that have to leave, workers that have come.

use prospect_core::WorkerId;

use super::run::RunMachine;
use super::{Action, Phase, WorkerState};

impl RunMachine {
    pub(super) fn worker_leaves(&mut self, worker: &WorkerId, reason: &str) {
        self.members.heard(worker, self.now);
        let Some(member) = self.members.get_mut(worker).filter(|m| m.is_present()) else { return };
        let was_leaving = std::mem::replace(&mut member.notes.is_leaving, true);
        let (who, has_weights) = (member.describe(), member.notes.has_weights);
        let is_done = self.members.get(worker).is_some_and(|m| self.has_done_everything(m));
        if is_done {
            if let Some(member) = self.members.get_mut(worker) {
                // Its session ends by itself.
                member.state = WorkerState::Left;
            }
            self.note("worker_left", self.pipeline.committed, format!("{who} left: {reason}"));
            return self.check_end();
        }
        if self.stop.is_some() || self.phase == Phase::Finishing || was_leaving {
            // It goes when it has done its part.
            return;
        }
        if !has_weights {
            return self.depart(worker);
        }
        if self.num_staying() < self.options.min_workers {
            // A world that is going to be too small stops in good order while it still can.
            return self.stop_requested(format!("{who} has to leave: {reason}"));
        }
        let message = format!("{who} leaves ({reason}); the others go on without it");
        self.note("worker_leaves", self.pipeline.committed, message);
        match self.phase {
            Phase::Recovering if self.adoption.is_some() => {
                self.give_up_adoption(&format!("{who} leaves"));
            }
            Phase::Recovering => {
                self.let_leavers_go();
                self.form_when_ready();
            }
            Phase::Forming => self.regroup(&format!("{who} leaves"), 0),
            _ => self.advance(),
        }
    }

    /// Workers that could go on when those who have to leave are gone.
    fn num_staying(&self) -> u32 {
        let stays = |member: &&super::Member| {
            !member.notes.is_leaving && member.stage() != WorkerState::Joined
        };
        self.members.present().filter(stays).count() as u32
    }

    /// While no world stands, whoever has to leave goes at once, unless too few are left.
    pub(super) fn let_leavers_go(&mut self) {
        let leaving = self.members.present().filter(|member| member.notes.is_leaving);
        let leaving: Vec<WorkerId> = leaving.map(|member| member.worker.clone()).collect();
        if leaving.is_empty() || self.stop.is_some() || self.phase != Phase::Recovering {
            return;
        }
        if self.num_staying() < self.options.min_workers {
            let names: Vec<&str> = leaving.iter().map(|worker| worker.0.as_str()).collect();
            return self.stop_requested(format!("{} has to leave", names.join(", ")));
        }
        for worker in leaving {
            self.depart(&worker);
        }
    }

    /// A worker goes in good order.
    fn depart(&mut self, worker: &WorkerId) {
        let Some(member) = self.members.get_mut(worker) else { return };
        let (who, incarnation) = (member.describe(), member.incarnation.clone());
        member.ends_as(WorkerState::Left);
        self.checkpoints.drop_orders_of(worker);
        self.count_joined();
        self.note("worker_left", self.pipeline.committed, format!("{who} left"));
        let reason = "it asked to leave".to_owned();
        let worker = worker.clone();
        self.act(Action::DismissWorker { worker, incarnation, reason, kind: None });
    }

    /// Whether the world is to change as soon as nothing is in flight: someone has to leave, or
    /// there is room for someone who has come.
    pub(super) fn is_change_due(&self) -> bool {
        if self.pipeline.committed.0 >= self.options.total_steps {
            return false;
        }
        self.members.world().any(|member| member.notes.is_leaving) || self.has_newcomer()
    }

    fn has_newcomer(&self) -> bool {
        // An evaluation is not begun again for the sake of a newcomer, and no sharded world is
        // given up for it.
        let has_room = self.world.size < self.options.max_workers;
        has_room
            && !self.options.sharded
            && self.pipeline.evaluation.is_none()
            && self.members.present().any(|m| m.is_candidate() && !m.notes.is_leaving)
    }

    /// Whether a world that is to change goes on to a step after which it is saved: no sharded one
    /// outlives a change. Where that cannot be had, the steps since the last checkpoint are done
    /// again.
    pub(super) fn saves_before_change(&mut self) -> bool {
        let committed = self.pipeline.committed;
        let is_to_be_saved = self.options.sharded
            && !self.is_nothing_to_save()
            && !self.checkpoints.any_pending()
            && !self.checkpoints.has_failed(committed)
            && self.pipeline.in_flight().next().is_none();
        if is_to_be_saved {
            self.checkpoints.save_out_of_turn(committed.next());
        }
        is_to_be_saved
    }

    /// Changes the world if nothing is in flight and nobody who leaves is writing.
    pub(super) fn change_world(&mut self) {
        let is_writing_parts = self.options.sharded && self.checkpoints.any_pending();
        if is_writing_parts || self.pipeline.in_flight().next().is_some() {
            return;
        }
        let leaving: Vec<&super::Member> =
            self.members.world().filter(|member| member.notes.is_leaving).collect();
        if leaving.iter().any(|member| self.checkpoints.is_writing(&member.worker)) {
            return;
        }
        let mut causes: Vec<String> =
            leaving.iter().map(|member| format!("{} leaves", member.describe())).collect();
        let newcomers = self.members.sorted();
        let newcomers = newcomers.into_iter().filter(|m| m.is_candidate() && !m.notes.is_leaving);
        causes.extend(newcomers.map(|member| format!("worker {} has come", member.worker)));
        let cause = causes.join(", ");
        self.regroup(&cause, 0);
    }
}
