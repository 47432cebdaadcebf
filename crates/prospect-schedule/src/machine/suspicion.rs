//! A worker that misses a peer is not the one that is lost. The one that is shows by its session;
//! where none does, the world forms again with everybody.

use std::collections::BTreeSet;
use std::time::Duration;

use prospect_core::{Step, WorkerId};

use super::WorkerState;
use super::run::RunMachine;

/// A worker reported that a peer is gone, and the machine looks for that peer.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    since: Duration,
    reporters: BTreeSet<WorkerId>,
    /// What the first reporter said.
    what: String,
}

impl RunMachine {
    pub(super) fn peer_missed(&mut self, worker: &WorkerId, step: Step, what: &str) {
        if self.adoption.is_some() {
            // Who is missing may be on its way back; none of them is given up yet.
            return self.give_up_adoption(what);
        }
        let now = self.now;
        let doubt = self.suspicion.get_or_insert_with(|| Suspicion {
            since: now,
            reporters: BTreeSet::new(),
            what: what.to_owned(),
        });
        if !doubt.reporters.insert(worker.clone()) {
            return;
        }
        let cause = doubt.what.clone();
        let reporters = doubt.reporters.len();
        self.note("peer_lost", step, what.to_owned());
        let world: Vec<_> = self.members.world().map(|m| (m.worker.clone(), m.state)).collect();
        let away = world.iter().filter(|(_, state)| *state == WorkerState::Away);
        let away: Vec<WorkerId> = away.map(|(worker, _)| worker.clone()).collect();
        if away.is_empty() && reporters == world.len() {
            return self.recover(&cause, 0);
        }
        for worker in away {
            self.lose(&worker, "its session ended and a peer misses it");
        }
    }

    /// Nobody turned out to be lost.
    pub(super) fn check_suspicion(&mut self) {
        let overdue =
            |doubt: &&Suspicion| self.now.saturating_sub(doubt.since) >= self.options.grace;
        if let Some(doubt) = self.suspicion.as_ref().filter(overdue) {
            let cause = doubt.what.clone();
            self.recover(&cause, 0);
        }
    }
}
