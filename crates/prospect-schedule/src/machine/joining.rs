//! Workers come, and load the model.

use prospect_core::{Incarnation, Rank, Step, WorkerId};

use super::run::RunMachine;
use super::text::workers;
use super::{Action, FailureKind, Phase, RefusalKind, WorkerState};

impl RunMachine {
    pub(super) fn worker_joined(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        preferred_rank: Option<Rank>,
    ) {
        let known = self.members.get(&worker).filter(|member| member.incarnation == incarnation);
        if known.is_some_and(|member| member.is_present()) && !self.phase.is_terminal() {
            if let Some(member) = self.members.get_mut(&worker) {
                member.preferred_rank = preferred_rank;
            }
            return self.members.heard(&worker, self.now);
        }
        if let Some((kind, reason)) = self.join_refusal(&worker, &incarnation, preferred_rank) {
            return self.act(Action::RefuseJoin { worker, incarnation, kind, reason });
        }
        let predecessor = self
            .members
            .get(&worker)
            .filter(|member| member.is_present())
            .or_else(|| self.members.rival(&worker, preferred_rank))
            .map(|member| member.worker.clone());
        if let Some(predecessor) = &predecessor {
            self.replace(predecessor, &worker);
            if self.phase.is_terminal() {
                let reason = format!("the run has ended: {}", self.reason);
                let kind = RefusalKind::ForNow;
                return self.act(Action::RefuseJoin { worker, incarnation, kind, reason });
            }
        }
        self.members.insert(worker.clone(), incarnation, preferred_rank, self.now);
        if let Some(member) = self.members.get_mut(&worker) {
            member.notes.joined_in = self.world.generation;
        }
        let (present, target) = (self.members.num_present(), self.options.target);
        self.count_joined();
        let message = match predecessor {
            Some(predecessor) if predecessor == worker => {
                format!("a newer process takes the place of worker {worker}")
            }
            Some(predecessor) => format!("worker {worker} takes the place of worker {predecessor}"),
            None => format!("worker {worker} joined ({present} of {target})"),
        };
        self.note("worker_joined", Step(0), message);
    }

    /// Shows how many have come before the first world.
    pub(super) fn count_joined(&mut self) {
        if self.phase == Phase::Waiting && self.stop.is_none() {
            let present = self.members.num_present();
            self.reason = format!("{present} of {} joined", workers(self.options.target));
        }
    }

    /// Why a process that is not known cannot join, if so. One that comes while the
    /// run ends, or in the place of one that may be gone, does not come in vain.
    fn join_refusal(
        &self,
        worker: &WorkerId,
        incarnation: &Incarnation,
        preferred_rank: Option<Rank>,
    ) -> Option<(RefusalKind, String)> {
        let max = self.options.max_workers;
        let others = self.members.present().filter(|member| member.worker != *worker).count();
        let replaces = self.members.rival(worker, preferred_rank).is_some();
        if self.members.is_banished(worker, incarnation) {
            Some((RefusalKind::Lasting, given_up(worker)))
        } else if self.phase.is_terminal() {
            Some((RefusalKind::ForNow, format!("the run has ended: {}", self.reason)))
        } else if let Some(stop) = &self.stop {
            Some((RefusalKind::ForNow, format!("the run is being stopped: {}", stop.reason)))
        } else if others >= max as usize && !replaces {
            let reason = format!(
                "the world of {} is complete ({}); raise coordinator.max_workers to use more",
                workers(max),
                self.members.names()
            );
            // A place may be about to become free.
            let is_whole = self.members.present().all(|m| m.state != WorkerState::Away);
            Some((if is_whole { RefusalKind::Lasting } else { RefusalKind::ForNow }, reason))
        } else {
            None
        }
    }

    /// A newer process comes in the place of this worker.
    fn replace(&mut self, worker: &WorkerId, by: &WorkerId) {
        let Some(member) = self.members.get(worker) else { return };
        let (incarnation, who) = (member.incarnation.clone(), member.describe());
        if member.has_session {
            let (worker, incarnation) = (worker.clone(), incarnation.clone());
            let (kind, reason) = (RefusalKind::Lasting, given_up(&worker));
            self.act(Action::RefuseSession { worker, incarnation, kind, reason });
        }
        if let Some(member) = self.members.get_mut(worker) {
            member.has_session = false;
        }
        self.members.banish(worker, &incarnation);
        let is_needed = self.members.get(worker).is_some_and(|m| m.notes.has_weights);
        if is_needed {
            let cause = if worker == by {
                "a newer process has its name".into()
            } else {
                format!("worker {by} has its rank")
            };
            self.lose(worker, &cause);
        } else {
            self.note("worker_replaced", Step(0), format!("{who} makes way for {by}"));
            self.members.remove(worker);
        }
    }

    pub(super) fn worker_loaded(&mut self, worker: &WorkerId, digest: &str) {
        self.members.heard(worker, self.now);
        let Some(member) = self.members.get_mut(worker).filter(|m| m.is_present()) else {
            return self.ignore(Step(0), format!("worker {worker} has loaded but has not joined"));
        };
        if member.stage() != WorkerState::Joined {
            return;
        }
        let who = member.describe();
        if digest != self.options.model_digest {
            let what = format!(
                "{who} has another model than the coordinator: its digest is {digest}, expected \
                 {} (both must read the same files under model.path)",
                self.options.model_digest
            );
            return self.newcomer_failed(worker, FailureKind::Configuration, &what);
        }
        member.set_stage(WorkerState::Loaded);
        self.gathering_changed();
        let (loaded, target) = (self.num_loaded(), self.options.target);
        if self.phase == Phase::Waiting {
            self.reason = format!("{loaded} of {} have loaded the model", workers(target));
        }
        self.form_when_ready();
        self.advance();
    }

    fn num_loaded(&self) -> usize {
        self.members.present().filter(|member| member.stage() == WorkerState::Loaded).count()
    }

    /// A worker that is not part of a world cannot be used. Before the first world that ends the
    /// run, for the others are most likely no better; later only the newcomer goes.
    pub(super) fn newcomer_failed(&mut self, worker: &WorkerId, kind: FailureKind, what: &str) {
        if self.phase == Phase::Waiting {
            return self.fail(kind, what);
        }
        let Some(member) = self.members.get(worker) else { return };
        let incarnation = member.incarnation.clone();
        self.members.banish(worker, &incarnation);
        self.members.remove(worker);
        self.note("worker_lost", self.pipeline.committed, what.to_owned());
        let (worker, reason, kind) = (worker.clone(), what.to_owned(), Some(kind));
        self.act(Action::DismissWorker { worker, incarnation, reason, kind });
        self.form_when_ready();
    }
}

/// What a process is told that cannot come back.
pub(super) fn given_up(worker: &WorkerId) -> String {
    format!(
        "this process of worker {worker} was given up, or a newer one has taken its place; end \
         this one"
    )
}
