//! The workers of a run, and which of them make up the world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prospect_core::{Incarnation, Rank, WorkerId};

use super::{Member, WorkerState};

/// Workers that are shown after they have gone, at most.
const MOST_GONE: usize = 64;

/// All workers that take part or took part.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<WorkerId, Member>,
    /// The world by rank; empty while none is formed or forms.
    world: Vec<WorkerId>,
    num_joined: u64,
    /// Processes that were given up or replaced, which cannot come back.
    banished: BTreeMap<WorkerId, BTreeSet<Incarnation>>,
    /// Processes that may come back until another one of their name does.
    set_aside: BTreeMap<WorkerId, Incarnation>,
}

impl Members {
    /// None yet. Some processes can never be among them, some until another one of their name is.
    pub(super) fn without(
        banished: BTreeMap<WorkerId, BTreeSet<Incarnation>>,
        set_aside: BTreeMap<WorkerId, Incarnation>,
    ) -> Self {
        Self { banished, set_aside, ..Self::default() }
    }

    pub(super) fn get(&self, worker: &WorkerId) -> Option<&Member> {
        self.by_name.get(worker)
    }

    pub(super) fn get_mut(&mut self, worker: &WorkerId) -> Option<&mut Member> {
        self.by_name.get_mut(worker)
    }

    pub(super) fn of_rank(&self, rank: Rank) -> Option<&Member> {
        self.world.get(rank.0 as usize).and_then(|worker| self.by_name.get(worker))
    }

    /// The worker's rank in the world, if it is part of it.
    pub(super) fn rank_of(&self, worker: &WorkerId) -> Option<Rank> {
        let rank = self.by_name.get(worker)?.rank?;
        (self.world.get(rank.0 as usize) == Some(worker)).then_some(rank)
    }

    /// The world by rank.
    pub(super) fn world(&self) -> impl Iterator<Item = &Member> {
        self.world.iter().filter_map(|worker| self.by_name.get(worker))
    }

    /// All members, by rank where they have one, in the order of joining otherwise.
    pub(super) fn sorted(&self) -> Vec<&Member> {
        let mut members: Vec<&Member> = self.by_name.values().collect();
        members.sort_by_key(|member| (member.rank.is_none(), member.rank, member.notes.joined));
        members
    }

    pub(super) fn present(&self) -> impl Iterator<Item = &Member> + Clone {
        self.by_name.values().filter(|member| member.is_present())
    }

    pub(super) fn present_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.by_name.values_mut().filter(|member| member.is_present())
    }

    pub(super) fn num_present(&self) -> u32 {
        self.present().count() as u32
    }

    pub(super) fn names(&self) -> String {
        let members = self.sorted();
        let present = members.iter().filter(|member| member.is_present());
        present.map(|member| member.worker.0.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Adds a worker, or puts another process in its place.
    pub(super) fn insert(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        preferred_rank: Option<Rank>,
        now: Duration,
    ) {
        let earlier = self.by_name.get(&worker);
        let joined = earlier.map_or(self.num_joined, |member| member.notes.joined);
        self.num_joined += 1;
        if let Some(aside) = self.set_aside.remove(&worker).filter(|aside| *aside != incarnation) {
            self.banish(&worker, &aside);
        }
        let mut member = Member::new(worker.clone(), incarnation, preferred_rank, now);
        member.notes.joined = joined;
        self.by_name.insert(worker, member);
        self.drop_oldest_gone();
    }

    /// Names may be without number: those who have gone are remembered for a while only.
    fn drop_oldest_gone(&mut self) {
        let is_in_world = |member: &Member| self.world.contains(&member.worker);
        let gone = self.by_name.values().filter(|m| !m.is_present() && !is_in_world(m));
        let mut gone: Vec<(Duration, WorkerId)> =
            gone.map(|member| (member.last_heard, member.worker.clone())).collect();
        gone.sort();
        for (_, worker) in gone.iter().rev().skip(MOST_GONE) {
            self.by_name.remove(worker);
        }
    }

    pub(super) fn remove(&mut self, worker: &WorkerId) {
        self.by_name.remove(worker);
    }

    /// Forgets a worker whose process may come back as if it were new, unless another one of
    /// its name comes first.
    pub(super) fn set_aside(&mut self, worker: &WorkerId) {
        if let Some(member) = self.by_name.remove(worker) {
            self.set_aside.insert(member.worker, member.incarnation);
        }
    }

    /// Keeps a process from ever coming back.
    pub(super) fn banish(&mut self, worker: &WorkerId, incarnation: &Incarnation) {
        self.banished.entry(worker.clone()).or_default().insert(incarnation.clone());
    }

    pub(super) fn is_banished(&self, worker: &WorkerId, incarnation: &Incarnation) -> bool {
        self.banished.get(worker).is_some_and(|processes| processes.contains(incarnation))
    }

    /// Another present member whose environment gives it this rank.
    pub(super) fn rival(&self, worker: &WorkerId, rank: Option<Rank>) -> Option<&Member> {
        let rank = rank?;
        self.present().find(|m| m.preferred_rank == Some(rank) && m.worker != *worker)
    }

    /// Makes these workers the world and gives each its rank: the one it prefers where all
    /// prefer distinct ranks of this world; otherwise those that had ranks keep their order,
    /// and the others follow in the order of joining.
    pub(super) fn form_world(&mut self, chosen: &[WorkerId]) {
        let members: Vec<&Member> = chosen.iter().filter_map(|w| self.by_name.get(w)).collect();
        let preferred: BTreeSet<Rank> = members
            .iter()
            .filter_map(|member| member.preferred_rank)
            .filter(|rank| (rank.0 as usize) < members.len())
            .collect();
        let as_preferred = preferred.len() == members.len();
        let mut sorted = members;
        if as_preferred {
            sorted.sort_by_key(|member| member.preferred_rank);
        } else {
            sorted.sort_by_key(|member| (member.rank.is_none(), member.rank, member.notes.joined));
        }
        self.set_world(sorted.into_iter().map(|member| member.worker.clone()).collect());
    }

    /// Makes these workers the world, by rank.
    pub(super) fn set_world(&mut self, world: Vec<WorkerId>) {
        // A rank belongs to one worker; the ones left out have none.
        for member in self.by_name.values_mut() {
            member.rank = None;
        }
        for (rank, worker) in (0..).map(Rank).zip(&world) {
            if let Some(member) = self.by_name.get_mut(worker) {
                member.rank = Some(rank);
                member.set_stage(WorkerState::Forming);
            }
        }
        self.world = world;
    }

    /// Breaks the world up. Its workers keep their ranks for the eye and for their order.
    pub(super) fn dissolve_world(&mut self) {
        self.world.clear();
    }

    /// Notes a sign of life.
    pub(super) fn heard(&mut self, worker: &WorkerId, now: Duration) {
        if let Some(member) = self.by_name.get_mut(worker) {
            member.last_heard = now;
        }
    }
}
