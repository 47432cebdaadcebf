//! Workers fail and are lost.

use prospect_core::{Generation, Step, WorkerId};

use super::run::RunMachine;
use super::{Action, FailureKind, Phase, RefusalKind, WorkerState};

impl RunMachine {
    /// A worker is gone. One that holds nothing of the run only loses its place, one that is not
    /// needed any more has left; otherwise the world forms again without it.
    pub(super) fn lose(&mut self, worker: &WorkerId, cause: &str) {
        if self.phase.is_terminal() {
            return;
        }
        let Some(member) = self.members.get(worker).filter(|m| m.is_present()) else { return };
        let (who, has_session) = (member.describe(), member.has_session);
        let incarnation = member.incarnation.clone();
        let is_in_world = self.members.rank_of(worker).is_some();
        if self.has_done_everything(member) {
            return self.goes_unneeded(worker, cause);
        }
        if !member.notes.has_weights {
            return self.forget(worker, cause);
        }
        let (step, where_) = self.where_lost(worker);
        let what = format!("{who} was lost {where_}: {cause}");
        self.losses.count += 1;
        if let Some(member) = self.members.get_mut(worker) {
            member.ends_as(WorkerState::Lost);
        }
        self.members.banish(worker, &incarnation);
        self.checkpoints.drop_orders_of(worker);
        self.note("worker_lost", step, what.clone());
        if has_session {
            let (worker, kind) = (worker.clone(), Some(FailureKind::PeerLost));
            self.act(Action::DismissWorker { worker, incarnation, reason: what.clone(), kind });
        }
        if self.adoption.is_some() && is_in_world {
            self.give_up_adoption(&what);
        } else if is_in_world {
            let full_size = self.full_size();
            self.recover(&what, full_size);
        } else if self.phase == Phase::Recovering {
            let full_size = self.full_size();
            if let Some(gathering) = &mut self.gathering {
                gathering.wanted = full_size;
            }
            self.gathering_changed();
            self.form_when_ready();
        }
    }

    /// A worker goes that nothing more is expected of.
    fn goes_unneeded(&mut self, worker: &WorkerId, cause: &str) {
        let Some(member) = self.members.get_mut(worker) else { return };
        let (who, incarnation) = (member.describe(), member.incarnation.clone());
        let has_session = member.has_session;
        member.ends_as(WorkerState::Left);
        let message = format!("{who} is gone and not needed any more ({cause})");
        self.note("worker_left", self.pipeline.committed, message.clone());
        if has_session {
            let worker = worker.clone();
            self.act(Action::DismissWorker { worker, incarnation, reason: message, kind: None });
        }
        self.check_end();
    }

    /// A worker that holds nothing of the run is gone; the process may join again.
    pub(super) fn forget(&mut self, worker: &WorkerId, cause: &str) {
        let Some(member) = self.members.get(worker) else { return };
        let who = member.describe();
        // One that was of no use yet leaves nothing to wait for.
        let was_loaded = member.stage() != WorkerState::Joined;
        if member.has_session {
            let (worker, incarnation) = (worker.clone(), member.incarnation.clone());
            let kind = RefusalKind::ForNow;
            let reason = format!("{who} has lost its place ({cause}); join again");
            self.act(Action::RefuseSession { worker, incarnation, kind, reason });
        }
        self.members.remove(worker);
        self.count_joined();
        self.note("worker_lost", Step(0), format!("{who} is gone ({cause})"));
        if was_loaded {
            self.gathering_changed();
        }
        self.form_when_ready();
    }

    /// The step and the place at which a worker is lost, in words.
    pub(super) fn where_lost(&self, worker: &WorkerId) -> (Step, String) {
        let committed = self.pipeline.committed;
        let generation = self.world.generation;
        match self.phase {
            Phase::Forming => (committed, format!("while generation {generation} formed")),
            Phase::Waiting | Phase::Recovering => {
                (committed, format!("while generation {generation} gathered"))
            }
            Phase::Finishing => (committed, "while the trained model was being saved".into()),
            _ => {
                let step = self.step_of(worker);
                (step, format!("at step {step}"))
            }
        }
    }

    /// The first step that a worker has not reported.
    pub(super) fn step_of(&self, worker: &WorkerId) -> Step {
        let rank = self.members.rank_of(worker);
        let owed = rank.and_then(|rank| self.first_owed(rank));
        owed.map_or(self.pipeline.committed, |key| key.step)
    }

    pub(super) fn worker_failed(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        step: Step,
        message: &str,
        kind: FailureKind,
    ) {
        self.members.heard(worker, self.now);
        let Some(member) = self.members.get(worker).filter(|m| m.is_present()) else {
            return self.ignore(step, format!("worker {worker} failed but has not joined"));
        };
        let (who, has_weights) = (member.describe(), member.notes.has_weights);
        let when = match step {
            Step(0) => "before the first step".into(),
            step => format!("at step {step}"),
        };
        let is_in_world = self.members.rank_of(worker).is_some();
        let is_of_this_world = is_in_world && self.is_current(generation);
        match kind {
            FailureKind::PeerLost if is_of_this_world => {
                self.peer_missed(worker, step, &format!("{who} lost a peer {when}: {message}"));
            }
            // It will stand by, as it was told to.
            FailureKind::PeerLost => {}
            _ if !has_weights => {
                self.newcomer_failed(worker, kind, &format!("{who} failed {when}: {message}"));
            }
            FailureKind::Internal | FailureKind::NoProgress => {
                self.lose(worker, &format!("it failed {when}: {message}"));
            }
            // What it failed at is over; whoever does it again will see.
            _ if !is_of_this_world => self.lose(worker, &format!("it failed {when}: {message}")),
            _ => self.fail(kind, &format!("{who} failed {when}: {message}")),
        }
    }
}
