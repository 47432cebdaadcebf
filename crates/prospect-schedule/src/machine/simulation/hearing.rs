//! What a simulated worker does when the coordinator says something.

use prospect_core::{Generation, Rank, Restore, ShardKind, Step, StepPhase};

use super::process::{Job, Place, Process, Told, Wish};
use crate::machine::{Action, Event, FailureKind};

impl Process {
    pub(super) fn hear(&mut self, told: Told) -> Vec<Wish> {
        let Told { generation, attempt, num_parts, action } = told;
        let is_current = generation == self.generation && self.place.is_some();
        match action {
            Action::Regroup { committed, .. } => self.regroup(generation, committed),
            Action::Assign { rank, world_size, restore, .. } => {
                self.assign(generation, rank, world_size, restore)
            }
            Action::AnnounceStore { .. } if is_current => {
                let Some(place) = self.place.as_mut().filter(|p| !p.has_met) else {
                    return Vec::new();
                };
                place.has_met = true;
                vec![Wish::Meet(generation)]
            }
            Action::SendShard { step, kind, eval_index, checkpoint_after, .. } if is_current => {
                let key = (step, kind == ShardKind::Eval, eval_index);
                self.take_shard(Job {
                    key,
                    attempt,
                    num_parts,
                    checkpoint_after,
                    phase: StepPhase::Idle,
                })
            }
            Action::SendReferencePoint { step, kind, eval_index, .. } if is_current => {
                let key = (step, kind == ShardKind::Eval, eval_index);
                self.points.insert(key);
                self.has_point()
            }
            Action::SendCommit { step, .. } if is_current => self.commit(step),
            Action::CheckpointDurable { step, .. } => {
                self.durable = self.durable.max(step);
                self.written = self.written.split_off(&step.next());
                Vec::new()
            }
            Action::SendFinish { .. } if is_current => {
                let is_rank_0 = self.place.as_ref().is_some_and(|place| place.rank == Rank(0));
                let Some((_, value)) = self.weights.filter(|_| is_rank_0) else {
                    return Vec::new();
                };
                if let Some(said) = &self.final_written {
                    return vec![Wish::Say(said.clone())];
                }
                if std::mem::replace(&mut self.is_writing_final, true) {
                    return Vec::new();
                }
                vec![Wish::WriteFinal(value)]
            }
            Action::SendStop { num_retries, .. } => {
                self.is_stopping = true;
                self.num_retries = num_retries;
                self.stop_if_done()
            }
            Action::SendClose => {
                let mut wishes = self.leave("all is done");
                wishes.push(Wish::Exit);
                wishes
            }
            Action::SendAbort { .. } | Action::DismissWorker { .. } => vec![Wish::Exit],
            _ => Vec::new(),
        }
    }

    fn regroup(&mut self, generation: Generation, committed: Step) -> Vec<Wish> {
        if generation < self.generation || generation == self.generation && self.place.is_some() {
            return Vec::new();
        }
        let aborted = self.generation;
        self.generation = generation;
        if self.pending.is_some_and(|(step, _)| step == committed) {
            self.apply();
        }
        if self.done() > committed {
            // Of an attempt that was given up.
            self.weights = None;
        }
        self.pending = None;
        self.place = None;
        self.forget_work();
        self.stands = true;
        let mut wishes = vec![Wish::Abort(aborted)];
        wishes.extend(self.standing().map(Wish::Say));
        wishes
    }

    fn forget_work(&mut self) {
        self.queue.clear();
        self.current = None;
        self.points.clear();
        self.reports.clear();
        self.save_after.clear();
        self.final_written = None;
        self.is_writing_final = false;
        self.is_broken = false;
    }

    /// Its collectives have failed: it says so and stands still.
    pub(super) fn breaks(&mut self, generation: Generation) -> Vec<Wish> {
        if generation != self.generation || self.place.is_none() || self.is_broken {
            return Vec::new();
        }
        self.is_broken = true;
        self.current = None;
        self.queue.clear();
        let (worker, step) = (self.worker.clone(), self.done().next());
        let (message, kind) = ("connection reset by peer".to_owned(), FailureKind::PeerLost);
        vec![Wish::Say(Event::Failure { worker, generation, step, message, kind })]
    }

    fn assign(
        &mut self,
        generation: Generation,
        rank: Rank,
        world_size: u32,
        restore: Restore,
    ) -> Vec<Wish> {
        if generation < self.generation {
            return Vec::new();
        }
        if generation == self.generation && self.place.is_some() {
            let place = self.place.as_ref().map(|place| self.place_reports(place));
            return place.into_iter().flatten().map(Wish::Say).collect();
        }
        assert!(self.place.is_none(), "assigned to a world without a word about the last");
        self.generation = generation;
        self.stands = false;
        if restore != Restore::Kept {
            // What was written of other weights is worth nothing.
            self.writing.clear();
            self.written.clear();
            self.begun = (Step(0), 0);
        }
        let place = Place { rank, world_size, restore, is_ready: false, has_met: false };
        let said = self.place_reports(&place);
        self.place = Some(place);
        said.into_iter().map(Wish::Say).collect()
    }
}
