//! Workers that were chosen find each other and agree on the weights.

use prospect_core::{Generation, Rank, Restore, Step, WorkerId};

use super::action_text::RestoreText;
use super::run::RunMachine;
use super::text::workers;
use super::{Action, FailureKind, Phase, WorkerState};

impl RunMachine {
    /// Gives ranks to these workers.
    pub(super) fn begin_generation(&mut self, chosen: &[WorkerId], restore: Restore) {
        self.members.form_world(chosen);
        let committed = self.pipeline.committed;
        let at_commit = self.members.world().find(|m| m.notes.stands_at == Some(committed));
        let restore = match (restore, at_commit.and_then(|member| member.rank)) {
            (Restore::Peer { .. }, Some(rank)) => Restore::Peer { rank },
            (restore, _) => restore,
        };
        let members: Vec<_> = (0..)
            .map(Rank)
            .zip(self.members.world())
            .map(|(rank, member)| (member.worker.clone(), member.incarnation.clone(), rank))
            .collect();
        let world_size = members.len() as u32;
        (self.world.size, self.world.num_forming) = (world_size, world_size);
        self.world.store = None;
        self.world.restore = restore.clone();
        let generation = self.world.generation;
        self.act(Action::BeginGeneration {
            generation,
            world_size,
            committed,
            restore: restore.clone(),
            members: members.clone(),
        });
        for (worker, _, rank) in members {
            if let Some(member) = self.members.get_mut(&worker) {
                // What it holds is unknown until it is ready.
                member.notes.stands_at = None;
                member.notes.has_weights = true;
                member.notes.is_outdated = false;
                member.slowdown = None;
                member.is_straggler = false;
                member.notes.seconds.clear();
            }
            self.act(Action::Assign { worker, rank, world_size, restore: restore.clone() });
        }
        let reason = format!(
            "generation {generation} of {} forms after step {committed}, weights {}",
            workers(world_size),
            RestoreText(&restore)
        );
        self.enter(Phase::Forming, reason);
    }

    pub(super) fn store_ready(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        host: String,
        port: u16,
    ) {
        self.members.heard(worker, self.now);
        if !self.is_current(generation) {
            return;
        }
        if self.members.rank_of(worker) != Some(Rank(0)) {
            let message = format!("worker {worker} announces a store but is not rank 0");
            return self.ignore(Step(0), message);
        }
        let address = (host, port);
        match &self.world.store {
            Some(earlier) if *earlier == address => {}
            Some((host, port)) => {
                let message = format!("rank 0 announces a second store; {host}:{port} stays");
                self.ignore(Step(0), message);
            }
            // One that an earlier coordinator announced is in use.
            None if self.phase != Phase::Forming => {}
            None => {
                self.world.store = Some(address);
                self.announce_store(None);
            }
        }
    }

    pub(super) fn announce_store(&mut self, to: Option<WorkerId>) {
        if let Some((host, port)) = self.world.store.clone() {
            let prefix = format!("generation-{}", self.world.generation);
            self.act(Action::AnnounceStore { host, port, prefix, to });
        }
    }

    pub(super) fn worker_ready(&mut self, worker: &WorkerId, generation: Generation, step: Step) {
        self.members.heard(worker, self.now);
        if !self.is_current(generation) {
            return;
        }
        let committed = self.pipeline.committed;
        let is_member = self.members.rank_of(worker).is_some();
        let Some(member) = self.members.get_mut(worker).filter(|_| is_member) else {
            return self.ignore(step, format!("worker {worker} is ready but has no place"));
        };
        if member.stage() != WorkerState::Forming {
            return;
        }
        let who = member.describe();
        if step != committed {
            let what = format!("{who} begins after step {step}, not after step {committed}");
            return self.fail(FailureKind::Corrupt, &what);
        }
        member.set_stage(WorkerState::Ready);
        member.step = step;
        self.world.num_forming -= 1;
        if self.world.num_forming == 0 {
            self.world_formed();
        }
    }

    /// All ranks are ready: on with the work, or with the stop that was asked for.
    fn world_formed(&mut self) {
        self.act(Action::GenerationFormed { generation: self.world.generation });
        self.gathering = None;
        let verb = if self.world.size == 1 { "is" } else { "are" };
        let all = format!("{} {verb} ready", workers(self.world.size));
        let reason = match self.pipeline.committed {
            Step(0) => format!("{all}; training begins"),
            step => format!("{all}; training goes on after step {step}"),
        };
        self.enter(Phase::Training, reason);
        if self.stop.is_some() {
            self.stop_at_work();
        } else {
            self.advance();
        }
    }
}
