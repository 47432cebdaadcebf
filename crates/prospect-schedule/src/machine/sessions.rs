//! Sessions come and go; a worker is more than its session.

use std::time::Duration;

use prospect_core::{Generation, Incarnation, Step, Weights, WorkerId};

use super::joining::given_up;
use super::run::RunMachine;
use super::{Action, Phase, RefusalKind, WorkerState};

/// How long a worker may be without a session before it counts as lost.
pub(super) const AWAY_TIMEOUT: Duration = Duration::from_millis(750);

impl RunMachine {
    /// Whether a session of this process may stand. To be asked before the session
    /// takes the place of another one.
    pub fn admits(&self, worker: &WorkerId, incarnation: &Incarnation) -> bool {
        self.session_refusal(worker, incarnation).is_none()
    }

    fn session_refusal(
        &self,
        worker: &WorkerId,
        incarnation: &Incarnation,
    ) -> Option<(RefusalKind, String)> {
        if self.members.is_banished(worker, incarnation) {
            return Some((RefusalKind::Lasting, given_up(worker)));
        }
        match self.members.get(worker) {
            _ if self.phase.is_terminal() => {
                Some((RefusalKind::ForNow, format!("the run has ended: {}", self.reason)))
            }
            None => {
                Some((RefusalKind::ForNow, format!("worker {worker} has not joined; join first")))
            }
            Some(member) if member.incarnation != *incarnation => {
                Some((RefusalKind::Lasting, given_up(worker)))
            }
            Some(member) if !member.is_present() => {
                let who = member.describe();
                Some((RefusalKind::ForNow, format!("{who} has left the run; start the run again")))
            }
            Some(_) => None,
        }
    }

    pub(super) fn session_opened(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        generation: Generation,
        weights: Option<Weights>,
    ) {
        if let Some((kind, reason)) = self.session_refusal(&worker, &incarnation) {
            return self.act(Action::RefuseSession { worker, incarnation, kind, reason });
        }
        let now = self.now;
        let is_in_world = self.members.rank_of(&worker).is_some();
        let is_outdated = !is_in_world && generation < self.world.attempt_generation;
        // A place that an earlier coordinator gave binds it until it is told to stand by.
        let Some(member) = self.members.get_mut(&worker) else { return };
        let has_old_place = generation > Generation(0) && generation < member.notes.joined_in;
        member.comes_back(now);
        member.notes.has_weights |= has_old_place;
        if weights.is_some() {
            member.notes.has_weights = true;
            if is_outdated {
                member.outdate();
            }
            if member.state == WorkerState::Joined {
                // A survivor of an earlier coordinator: it has a model in memory.
                member.state = WorkerState::Loaded;
            }
        }
        if self.adoption.is_some() {
            return self.session_of_earlier_world(&worker, generation, weights);
        }
        if generation > self.world.generation {
            // A record that was lost with its disk: nothing of that world may count again.
            self.world.generation = generation;
            let cause = format!("worker {worker} comes from the later generation {generation}");
            let full_size = self.full_size();
            return self.regroup(&cause, full_size);
        }
        if self.members.rank_of(&worker).is_some() {
            return self.resend(&worker);
        }
        self.ask_to_stand(&worker);
        self.form_when_ready();
        self.advance();
    }

    fn session_of_earlier_world(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        weights: Option<Weights>,
    ) {
        if self.members.rank_of(worker).is_some() {
            self.adopt(worker, generation, weights);
        } else if generation > self.world.generation {
            self.world.generation = generation;
            let cause = format!("worker {worker} comes from the later generation {generation}");
            self.give_up_adoption(&cause);
        } else {
            self.ask_to_stand(worker);
        }
    }

    /// Tells a worker with weights that is not part of a world to stand by. The first one that a
    /// coordinator without any world meets makes it gather under a generation of its own.
    fn ask_to_stand(&mut self, worker: &WorkerId) {
        let now = self.now;
        let Some(member) = self.members.get_mut(worker) else { return };
        if !member.notes.has_weights {
            return;
        }
        if self.phase == Phase::Waiting {
            let cause = format!("worker {worker} survived the last coordinator");
            let full_size = self.full_size();
            return self.regroup(&cause, full_size);
        }
        member.notes.asked_to_stand = Some(now);
        member.notes.stands_at = None;
        let (generation, committed) = (self.world.generation, self.pipeline.committed);
        let reason = self.reason.clone();
        let to = Some(worker.clone());
        self.act(Action::Regroup { generation, committed, reason, to });
    }

    pub(super) fn session_closed(
        &mut self,
        worker: &WorkerId,
        incarnation: &Incarnation,
        cause: &str,
    ) {
        let (ended, now) = (self.phase.is_terminal(), self.now);
        let Some(member) = self.members.get_mut(worker) else { return };
        if member.incarnation != *incarnation || !member.has_session {
            return;
        }
        if ended || !member.is_present() {
            member.has_session = false;
            if member.is_present() {
                member.ends_as(WorkerState::Left);
            }
            return;
        }
        let who = member.describe();
        member.goes_away(now, cause);
        self.note("worker_away", Step(0), format!("the session of {who} ended: {cause}"));
        self.adopted_went_away(worker);
        self.session_matters(worker);
    }

    /// A worker whose session is gone while a peer misses someone, or that is not needed, is not
    /// waited for.
    fn session_matters(&mut self, worker: &WorkerId) {
        let Some(member) = self.members.get(worker) else { return };
        let is_missed = self.suspicion.is_some() && self.members.rank_of(worker).is_some();
        if self.has_done_everything(member) || is_missed {
            let cause = format!("its session ended: {}", member.notes.away_cause);
            self.lose(worker, &cause);
        }
    }
}
