//! A coordinator that starts again finds a world at work: if all its workers come back, it goes
//! on as if nothing had happened.

use std::collections::BTreeSet;
use std::time::Duration;

use prospect_core::{Generation, Step, Weights, WorkerId};

use super::run::RunMachine;
use super::text::workers;
use super::{Action, Adopt, Phase, WorkerState};

/// A world that may be adopted.
#[derive(Clone, Debug)]
pub(super) struct Adoption {
    since: Duration,
    /// Its workers that have not come back.
    missing: BTreeSet<WorkerId>,
}

impl Adoption {
    /// The same, begun at another time.
    pub(super) fn from(self, now: Duration) -> Self {
        Self { since: now, ..self }
    }
}

impl RunMachine {
    pub(super) fn begin_adoption(&mut self, adopt: Adopt) {
        let Adopt { generation, mut members, .. } = adopt;
        members.sort_by_key(|(_, _, rank)| *rank);
        self.world.generation = generation;
        self.world.size = members.len() as u32;
        for (worker, incarnation, _) in &members {
            self.members.insert(worker.clone(), incarnation.clone(), None, self.now);
        }
        let world: Vec<WorkerId> = members.into_iter().map(|(worker, _, _)| worker).collect();
        self.adoption =
            Some(Adoption { since: self.now, missing: world.iter().cloned().collect() });
        self.members.set_world(world);
        for member in self.members.present_mut() {
            member.set_stage(WorkerState::Ready);
            member.notes.has_weights = true;
            member.step = self.pipeline.committed;
            member.goes_away(self.now, "the coordinator ended");
        }
        self.phase = Phase::Recovering;
        self.reason = format!(
            "waiting for {} of generation {generation} to come back",
            workers(self.world.size)
        );
    }

    /// A worker of the world is back, with these weights.
    pub(super) fn adopt(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        weights: Option<Weights>,
    ) {
        let committed = self.pipeline.committed;
        let fits = |weights: Weights| {
            weights.done == committed || weights.pending == Some(committed) && committed > Step(0)
        };
        if generation != self.world.generation || !weights.is_some_and(fits) {
            // A record that was lost with its disk: nothing of that world may count again.
            self.world.generation = self.world.generation.max(generation);
            let where_ = weights.map_or("without weights".into(), |weights| {
                format!("with the weights of step {}", weights.done)
            });
            let cause = format!(
                "worker {worker} came back in generation {generation} {where_}; step {committed} \
                 is the last on record"
            );
            return self.give_up_adoption(&cause);
        }
        let Some(adoption) = &mut self.adoption else { return };
        adoption.missing.remove(worker);
        if adoption.missing.is_empty() {
            self.world_adopted();
        }
    }

    fn world_adopted(&mut self) {
        self.adoption = None;
        self.gathering = None;
        let (generation, committed) = (self.world.generation, self.pipeline.committed);
        let size = workers(self.world.size);
        let reason = format!("generation {generation} of {size} is back after step {committed}");
        self.enter(Phase::Training, reason);
        if committed > Step(0) {
            self.act(Action::SendCommit { step: committed, to: None });
        }
        // What the last coordinator had sent is at work; a stop begins after it.
        let stop = self.stop.take();
        self.advance();
        self.resend_points(None);
        if let Some(stop) = stop.filter(|_| !self.phase.is_terminal()) {
            self.stop_requested(stop.reason);
        }
    }

    /// A worker that had come back is gone again.
    pub(super) fn adopted_went_away(&mut self, worker: &WorkerId) {
        let is_of_world = self.members.rank_of(worker).is_some();
        if let Some(adoption) = self.adoption.as_mut().filter(|_| is_of_world) {
            adoption.missing.insert(worker.clone());
        }
    }

    /// Forms the world again with those that are back, and forgets the others: they may come as
    /// if they were new.
    pub(super) fn give_up_adoption(&mut self, cause: &str) {
        let Some(adoption) = self.adoption.take() else { return };
        let full_size = self.full_size();
        let has_session =
            |worker: &WorkerId| self.members.get(worker).is_some_and(|member| member.has_session);
        let gone: Vec<WorkerId> =
            adoption.missing.into_iter().filter(|worker| !has_session(worker)).collect();
        self.members.dissolve_world();
        for worker in &gone {
            self.members.set_aside(worker);
        }
        self.regroup(cause, full_size);
    }

    /// Whether the workers have had their time.
    pub(super) fn check_adoption(&mut self) {
        let wait = self.options.adopt_wait;
        let Some(adoption) = &self.adoption else { return };
        if self.now.saturating_sub(adoption.since) < wait {
            return;
        }
        let missing: Vec<&str> = adoption.missing.iter().map(|worker| worker.0.as_str()).collect();
        let cause = format!(
            "{} did not come back within {:.1} s of the coordinator's start",
            missing.join(", "),
            wait.as_secs_f64()
        );
        self.give_up_adoption(&cause);
    }
}
