//! Process groups: peers meet, take over weights and add up gradients, or fail to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prospect_core::{Generation, Incarnation, Rank, Restore, Step, WorkerId};

use super::disk::{INITIAL, Value};
use super::process::Key;
use super::world::{Item, Pid, World};

/// How long a collective may take.
const COLLECTIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The peers of a generation.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    members: Vec<Pid>,
    met: BTreeSet<Pid>,
    gone: BTreeSet<Pid>,
    reduced: BTreeMap<Key, BTreeSet<Pid>>,
}

impl Group {
    /// Its ranks, where none has gone.
    pub(super) fn whole(&self) -> Option<Vec<Pid>> {
        self.gone.is_empty().then(|| self.members.clone())
    }
}

impl World {
    pub(super) fn begin_group(
        &mut self,
        generation: Generation,
        members: &[(WorkerId, Incarnation, Rank)],
    ) {
        let pid_of = |worker: &WorkerId, incarnation: &Incarnation| {
            let is_it =
                |p: &super::process::Process| p.worker == *worker && p.incarnation == *incarnation;
            self.processes.iter().position(is_it).expect("members are processes")
        };
        let members: Vec<Pid> = members.iter().map(|(w, i, _)| pid_of(w, i)).collect();
        let gone = members.iter().copied().filter(|pid| !self.processes[*pid].is_alive).collect();
        self.groups.insert(generation, Group { members, gone, ..Group::default() });
    }

    pub(super) fn wants_to_meet(&mut self, pid: Pid, generation: Generation) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        group.met.insert(pid);
        if group.met.len() == group.members.len() {
            let delay = self.chance.millis(5, 60);
            self.after(delay, Item::Meet(generation));
        } else {
            self.after(COLLECTIVE_TIMEOUT, Item::Meet(generation));
        }
    }

    /// The peers meet, or have waited for each other too long.
    pub(super) fn meet(&mut self, generation: Generation) {
        let Some(group) = self.groups.get(&generation) else { return };
        let members = group.members.clone();
        let is_here = |pid: &Pid| {
            let process = &self.processes[*pid];
            process.is_alive
                && process.generation == generation
                && group.met.contains(pid)
                && !group.gone.contains(pid)
        };
        let is_done = |pid: &Pid| self.processes[*pid].place.as_ref().is_some_and(|p| p.is_ready);
        if members.iter().any(|pid| is_here(pid) && is_done(pid)) {
            return;
        }
        if !members.iter().all(is_here) {
            let here: Vec<Pid> = members.iter().copied().filter(is_here).collect();
            for pid in here {
                self.after(Duration::ZERO, Item::Breaks(pid, generation));
            }
            return;
        }
        let awake = members.iter().map(|pid| self.bodies[*pid].frozen_until).max();
        if let Some(awake) = awake.filter(|awake| *awake > self.now) {
            return self.at(awake, Item::Meet(generation));
        }
        let weights: Vec<(Step, Value)> =
            members.iter().map(|pid| self.restored(*pid, &members)).collect();
        let committed = self.disk.committed();
        let truth = (committed, self.disk.truth[committed.0 as usize]);
        for (pid, weights) in members.into_iter().zip(weights) {
            // A world that is over may still form, unheard.
            if generation == self.disk.replay.generation {
                assert_eq!(weights, truth, "a worker that is ready has the committed weights");
            }
            let wishes = self.processes[pid].formed(weights);
            self.grant(pid, wishes);
        }
    }

    fn restored(&self, pid: Pid, members: &[Pid]) -> (Step, Value) {
        let process = &self.processes[pid];
        let place = process.place.as_ref().expect("a worker that meets its peers has a place");
        match &place.restore {
            Restore::Initial => (Step(0), INITIAL),
            Restore::Kept => process.weights.expect("kept weights are there"),
            Restore::Peer { rank } => {
                self.processes[members[rank.0 as usize]].weights.expect("a peer's weights")
            }
            Restore::Checkpoint { path } => {
                let taken = self.disk.checkpoints.iter();
                let mut of_path = taken.filter(|(step, _)| path.ends_with(&step.directory_name()));
                let (step, value) = of_path.next().expect("a checkpoint that is in its place");
                (*step, *value)
            }
        }
    }

    pub(super) fn wants_to_reduce(&mut self, pid: Pid, generation: Generation, key: Key) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        if !group.gone.is_empty() {
            return self.after(Duration::from_millis(50), Item::Breaks(pid, generation));
        }
        let here = group.reduced.entry(key).or_default();
        here.insert(pid);
        if here.len() == group.members.len() {
            for pid in group.members.clone() {
                let delay = self.chance.millis(2, 40);
                self.after(delay, Item::Reduced(pid, generation, key));
            }
        }
    }

    pub(super) fn aborts(&mut self, pid: Pid, generation: Generation) {
        if let Some(group) = self.groups.get_mut(&generation) {
            group.gone.insert(pid);
        }
    }

    /// A process is gone: its peers notice in their collectives, if they are in any.
    pub(super) fn peers_notice(&mut self, pid: Pid) {
        let generation = self.processes[pid].generation;
        let Some(group) = self.groups.get_mut(&generation) else { return };
        group.gone.insert(pid);
        let members = group.members.clone();
        if !members.contains(&pid) {
            return;
        }
        for peer in members.into_iter().filter(|peer| *peer != pid) {
            if self.chance.happens(80) {
                let delay = self.chance.millis(5, 400);
                self.after(delay, Item::Breaks(peer, generation));
            }
        }
    }
}
