//! Workers come, get their ranks and find each other.

use prospect_core::{Incarnation, Rank, Step, WorkerId};

use super::run::{RunMachine, workers};
use super::{Action, FailureKind, Phase, RefusalKind, WorkerState};

impl RunMachine {
    pub(super) fn worker_joined(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        preferred_rank: Option<Rank>,
    ) {
        let known = self.members.get(&worker).map(|member| member.incarnation.clone());
        if known.as_ref() == Some(&incarnation) && !self.phase.is_terminal() {
            return self.members.heard(&worker, self.now);
        }
        if let Some((kind, reason)) = self.join_refusal(&worker, preferred_rank) {
            return self.act(Action::RefuseJoin { worker, incarnation, kind, reason });
        }
        if let Some(member) = self.members.get(&worker).filter(|member| member.has_session) {
            let incarnation = member.incarnation.clone();
            let (kind, reason) = (RefusalKind::Lasting, replaced(&worker));
            self.act(Action::RefuseSession { worker: worker.clone(), incarnation, kind, reason });
        }

        self.members.insert(worker.clone(), incarnation, preferred_rank, self.now);
        let (num_members, world_size) = (self.members.len(), self.options.world_size);
        self.reason = format!("{num_members} of {} joined", workers(world_size));
        if known.is_some() {
            let message = format!("a new process takes the place of worker {worker}");
            self.note("worker_replaced", Step(0), message);
        } else {
            let message = format!("worker {worker} joined ({num_members} of {world_size})");
            self.note("worker_joined", Step(0), message);
        }
    }

    /// Why a process that is not known cannot join, if so. One that comes while the
    /// run ends, or in the place of one that may be gone, does not come in vain.
    fn join_refusal(
        &self,
        worker: &WorkerId,
        preferred_rank: Option<Rank>,
    ) -> Option<(RefusalKind, String)> {
        let world_size = self.options.world_size;
        let is_known = self.members.get(worker).is_some();
        if self.phase.is_terminal() {
            let reason = format!("the run has ended: {}", self.reason);
            Some((RefusalKind::ForNow, reason))
        } else if let Some(stop) = &self.stop {
            let reason = format!("the run is being stopped: {}", stop.reason);
            Some((RefusalKind::ForNow, reason))
        } else if is_known && self.phase != Phase::Waiting {
            let reason = format!(
                "another process with the name {worker} takes part in the run, which cannot take \
                 a new one in after it has formed; end the run, then {}",
                self.how_to_go_on()
            );
            Some((RefusalKind::ForNow, reason))
        } else if !is_known && self.members.len() >= world_size as usize {
            let reason = format!(
                "the world of {} is complete ({}); raise coordinator.workers to use more",
                workers(world_size),
                self.members.names()
            );
            // The pod that follows a lost one has its rank and another name.
            let is_successor = preferred_rank.is_some_and(|rank| self.members.prefers(rank));
            let kind = if is_successor { RefusalKind::ForNow } else { RefusalKind::Lasting };
            Some((kind, reason))
        } else {
            None
        }
    }

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
        match self.members.get(worker) {
            _ if self.phase.is_terminal() => {
                Some((RefusalKind::ForNow, format!("the run has ended: {}", self.reason)))
            }
            None => {
                Some((RefusalKind::ForNow, format!("worker {worker} has not joined; join first")))
            }
            Some(member) if member.incarnation != *incarnation => {
                Some((RefusalKind::Lasting, replaced(worker)))
            }
            Some(member) if !member.is_present() => {
                let who = member.describe();
                Some((RefusalKind::ForNow, format!("{who} has left the run; start the run again")))
            }
            Some(_) => None,
        }
    }

    pub(super) fn session_opened(&mut self, worker: WorkerId, incarnation: Incarnation) {
        if let Some((kind, reason)) = self.session_refusal(&worker, &incarnation) {
            return self.act(Action::RefuseSession { worker, incarnation, kind, reason });
        }
        self.members.heard(&worker, self.now);
        if let Some(member) = self.members.get_mut(&worker) {
            member.has_session = true;
        }
        self.form_when_complete();
    }

    /// Gives ranks as soon as the whole world is there.
    fn form_when_complete(&mut self) {
        let world_size = self.options.world_size;
        let members = self.members.sorted();
        let is_complete =
            members.len() == world_size as usize && members.iter().all(|member| member.has_session);
        if self.phase != Phase::Waiting || self.stop.is_some() || !is_complete {
            return;
        }
        self.members.assign_ranks();
        let resume_path = self.options.resume.as_ref().map(|resume| resume.path.clone());
        for rank in (0..world_size).map(Rank) {
            if let Some(member) = self.members.of_rank(rank) {
                let (worker, resume_path) = (member.worker.clone(), resume_path.clone());
                self.act(Action::Assign { worker, rank, world_size, resume_path });
            }
        }
        let verb = if world_size == 1 { "has" } else { "have" };
        let reason = format!("{} {verb} joined; loading the model", workers(world_size));
        self.enter(Phase::Forming, reason);
    }

    pub(super) fn store_ready(&mut self, worker: &WorkerId, host: String, port: u16) {
        self.members.heard(worker, self.now);
        let is_rank_0 = self.members.of_rank(Rank(0)).is_some_and(|m| &m.worker == worker);
        let address = (host, port);
        if !is_rank_0 {
            let message = format!("worker {worker} announces a store but is not rank 0");
            return self.ignore(Step(0), message);
        }
        match &self.store {
            Some(earlier) if *earlier == address => {}
            Some((host, port)) => {
                let message = format!("rank 0 announces a second store; {host}:{port} stays");
                self.ignore(Step(0), message);
            }
            None => {
                let (host, port) = address.clone();
                self.store = Some(address);
                let prefix = format!("generation-{}", self.options.generation);
                self.act(Action::AnnounceStore { host, port, prefix });
            }
        }
    }

    pub(super) fn worker_ready(&mut self, worker: &WorkerId, digest: &str, resumed_step: Step) {
        self.members.heard(worker, self.now);
        let Some(member) = self.members.get(worker) else {
            return self.ignore(Step(0), format!("worker {worker} is ready but has not joined"));
        };
        let who = member.describe();
        match member.state {
            WorkerState::Forming => {}
            WorkerState::Ready => return,
            WorkerState::Joined | WorkerState::Left | WorkerState::Lost => {
                return self.ignore(Step(0), format!("{who} is ready but has no place"));
            }
        }
        if digest != self.options.model_digest {
            let what = format!(
                "{who} has another model than the coordinator: its digest is {digest}, expected \
                 {} (both must read the same files under model.path)",
                self.options.model_digest
            );
            return self.fail(FailureKind::Configuration, &what);
        }
        let expected = self.options.first_committed();
        if resumed_step != expected {
            let what = format!("{who} begins after step {resumed_step}, not after step {expected}");
            return self.fail(FailureKind::Corrupt, &what);
        }
        if let Some(member) = self.members.get_mut(worker) {
            member.state = WorkerState::Ready;
            member.step = resumed_step;
        }
        let ready = self.members.sorted().iter().all(|m| m.state == WorkerState::Ready);
        if ready && self.stop.is_none() {
            let all = workers(self.options.world_size);
            let reason = match expected {
                Step(0) => format!("{all} ready; training begins"),
                step => format!("{all} ready; training goes on after step {step}"),
            };
            self.enter(Phase::Training, reason);
            self.advance();
        }
    }
}

fn replaced(worker: &WorkerId) -> String {
    format!("a newer process of worker {worker} has taken its place; end this one")
}
