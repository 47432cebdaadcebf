//! The workers of a run: who they are, their ranks, when they were last heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prospect_core::{Incarnation, Rank, Step, WorkerId};

use super::WorkerState;

/// One worker as the run sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub worker: WorkerId,
    /// Which process of that name.
    pub incarnation: Incarnation,
    /// Rank that its environment gives it.
    pub preferred_rank: Option<Rank>,
    /// Its rank, once the world has formed.
    pub rank: Option<Rank>,
    /// Its state.
    pub state: WorkerState,
    /// Whether its session stands.
    pub has_session: bool,
    /// Step that it was last known to work on.
    pub step: Step,
    /// When it was last heard, on the clock that events are given with.
    pub last_heard: Duration,
    /// Highest memory use that it reported.
    pub peak_memory_bytes: u64,
    /// Whether it said that it leaves while the run was ending.
    pub(super) is_leaving: bool,
    /// Place in the order of joining.
    joined: u64,
}

/// All workers that take part or took part.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<WorkerId, Member>,
    by_rank: Vec<WorkerId>,
    num_joined: u64,
}

impl Member {
    /// The worker in words, for instance "worker pod-1 (rank 1)".
    pub fn describe(&self) -> String {
        match self.rank {
            Some(rank) => format!("worker {} (rank {rank})", self.worker),
            None => format!("worker {}", self.worker),
        }
    }

    /// Whether it is still there.
    pub fn is_present(&self) -> bool {
        !matches!(self.state, WorkerState::Left | WorkerState::Lost)
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, worker: &WorkerId) -> Option<&Member> {
        self.by_name.get(worker)
    }

    pub(super) fn get_mut(&mut self, worker: &WorkerId) -> Option<&mut Member> {
        self.by_name.get_mut(worker)
    }

    pub(super) fn of_rank(&self, rank: Rank) -> Option<&Member> {
        self.by_rank.get(rank.0 as usize).and_then(|worker| self.by_name.get(worker))
    }

    pub(super) fn of_rank_mut(&mut self, rank: Rank) -> Option<&mut Member> {
        self.by_rank.get(rank.0 as usize).and_then(|worker| self.by_name.get_mut(worker))
    }

    /// All members, by rank where they have one, in the order of joining otherwise.
    pub(super) fn sorted(&self) -> Vec<&Member> {
        let mut members: Vec<&Member> = self.by_name.values().collect();
        members.sort_by_key(|member| (member.rank, member.joined));
        members
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<&str> =
            self.sorted().iter().map(|member| member.worker.0.as_str()).collect();
        names.join(", ")
    }

    /// Adds a worker, or puts a new process in its place.
    pub(super) fn insert(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        preferred_rank: Option<Rank>,
        now: Duration,
    ) {
        let joined = self.by_name.get(&worker).map_or(self.num_joined, |member| member.joined);
        self.num_joined += 1;
        let member = Member {
            worker: worker.clone(),
            incarnation,
            preferred_rank,
            rank: None,
            state: WorkerState::Joined,
            has_session: false,
            step: Step(0),
            last_heard: now,
            peak_memory_bytes: 0,
            is_leaving: false,
            joined,
        };
        self.by_name.insert(worker, member);
    }

    pub(super) fn remove(&mut self, worker: &WorkerId) {
        self.by_name.remove(worker);
    }

    /// Gives every member its rank: the one it prefers where all prefer distinct
    /// ranks of this world, its place in the order of joining otherwise.
    pub(super) fn assign_ranks(&mut self) {
        let world_size = self.len() as u32;
        let preferred: BTreeSet<Rank> = self
            .by_name
            .values()
            .filter_map(|member| member.preferred_rank)
            .filter(|rank| rank.0 < world_size)
            .collect();
        let mut members: Vec<&mut Member> = self.by_name.values_mut().collect();
        if preferred.len() == members.len() {
            members.sort_by_key(|member| member.preferred_rank);
        } else {
            members.sort_by_key(|member| member.joined);
        }
        self.by_rank = members.iter().map(|member| member.worker.clone()).collect();
        for (rank, member) in members.into_iter().enumerate() {
            member.rank = Some(Rank(rank as u32));
            member.state = WorkerState::Forming;
        }
    }

    /// Notes a sign of life.
    pub(super) fn heard(&mut self, worker: &WorkerId, now: Duration) {
        if let Some(member) = self.by_name.get_mut(worker) {
            member.last_heard = now;
        }
    }

    /// Whether the environment of some member gives it this rank.
    pub(super) fn prefers(&self, rank: Rank) -> bool {
        self.by_name.values().any(|member| member.preferred_rank == Some(rank))
    }

    /// Present members that have been silent for longer than `timeout`, those
    /// included that have joined and never opened a session.
    pub(super) fn late(&self, now: Duration, timeout: Duration) -> Vec<(WorkerId, Duration)> {
        self.sorted()
            .into_iter()
            .filter(|member| member.is_present())
            .map(|member| (member.worker.clone(), now.saturating_sub(member.last_heard)))
            .filter(|(_, silence)| *silence > timeout)
            .collect()
    }
}
