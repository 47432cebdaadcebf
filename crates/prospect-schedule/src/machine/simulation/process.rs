//! A simulated worker: it behaves as the protocol says and does nothing by itself. What it wants
//! from the world comes out as [`Wish`]es.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prospect_core::{Generation, Incarnation, Rank, Restore, Step, StepPhase, Weights, WorkerId};

use super::disk::{Value, moved};
use crate::machine::{Action, Event};

/// A pass.
pub(super) type Key = (Step, bool, u32);

/// What the coordinator says, with what is on the envelope and in the shards.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) generation: Generation,
    pub(super) attempt: u64,
    pub(super) num_parts: u32,
    pub(super) action: Action,
}

/// What a worker wants.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    /// Tell the coordinator.
    Say(Event),
    /// Compute for a while, then go on with the pass.
    Compute(Key),
    /// Meet the peers of this generation.
    Meet(Generation),
    /// Take part in the collective of a pass.
    Reduce(Generation, Key),
    /// Give up the process group.
    Abort(Generation),
    /// Write a checkpoint.
    Write(Step, Value),
    /// Write the trained model.
    WriteFinal(Value),
    /// End the process.
    Exit,
}

/// The place in a world.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) rank: Rank,
    pub(super) world_size: u32,
    pub(super) restore: Restore,
    pub(super) is_ready: bool,
    pub(super) has_met: bool,
}

/// What is computed, and how far it is.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) attempt: u64,
    pub(super) num_parts: u32,
    pub(super) checkpoint_after: bool,
    pub(super) phase: StepPhase,
}

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) worker: WorkerId,
    pub(super) incarnation: Incarnation,
    pub(super) is_alive: bool,
    pub(super) is_loaded: bool,
    pub(super) generation: Generation,
    /// Weights and the step that they are the result of; absent before the first world.
    pub(super) weights: Option<(Step, Value)>,
    /// A step that is computed, and the attempt.
    pub(super) pending: Option<(Step, u64)>,
    pub(super) place: Option<Place>,
    pub(super) queue: VecDeque<Job>,
    pub(super) current: Option<Job>,
    pub(super) points: BTreeSet<Key>,
    /// Reports that may not have been heard, by pass: sums, then the report.
    pub(super) reports: BTreeMap<Key, Vec<Event>>,
    /// Whether it has said that it stands in this generation.
    pub(super) stands: bool,
    pub(super) save_after: BTreeSet<Step>,
    pub(super) writing: BTreeSet<Step>,
    /// The last checkpoint that it has begun or skipped, and the number of the order for it.
    pub(super) begun: (Step, u32),
    /// Number of the last stop.
    pub(super) num_retries: u32,
    /// What was written and is not known to be durable.
    pub(super) written: BTreeMap<Step, Event>,
    pub(super) durable: Step,
    pub(super) final_written: Option<Event>,
    pub(super) is_writing_final: bool,
    pub(super) is_stopping: bool,
    pub(super) has_left: bool,
    /// Whether its collectives failed, so that it waits for another world.
    pub(super) is_broken: bool,
    /// Whether it goes as soon as a stop lets it, or waits for the last word.
    pub(super) leaves_early: bool,
    pub(super) progress: u64,
}

impl Process {
    pub(super) fn new(worker: WorkerId, incarnation: Incarnation, leaves_early: bool) -> Self {
        Self {
            worker,
            incarnation,
            is_alive: true,
            is_loaded: false,
            generation: Generation(0),
            weights: None,
            pending: None,
            place: None,
            queue: VecDeque::new(),
            current: None,
            points: BTreeSet::new(),
            reports: BTreeMap::new(),
            stands: false,
            save_after: BTreeSet::new(),
            writing: BTreeSet::new(),
            begun: (Step(0), 0),
            num_retries: 0,
            written: BTreeMap::new(),
            durable: Step(0),
            final_written: None,
            is_writing_final: false,
            is_stopping: false,
            has_left: false,
            is_broken: false,
            leaves_early,
            progress: 0,
        }
    }

    pub(super) fn done(&self) -> Step {
        self.weights.map_or(Step(0), |(step, _)| step)
    }

    pub(super) fn hello(&self) -> Option<Weights> {
        let pending = self.pending.map(|(step, _)| step);
        self.weights.map(|(done, _)| Weights { done, pending })
    }

    pub(super) fn heartbeat(&self) -> Event {
        let step = self.done().next();
        let phase = match &self.current {
            Some(job) => job.phase,
            None if self.pending.is_some() => StepPhase::Commit,
            None => StepPhase::Idle,
        };
        Event::Heartbeat { worker: self.worker.clone(), step, phase, progress: self.progress }
    }

    /// What is said first in every session.
    pub(super) fn repeat(&self) -> Vec<Event> {
        let mut said = Vec::new();
        if self.is_loaded {
            said.push(self.loaded());
        }
        said.extend(self.standing());
        if let Some(place) = &self.place {
            said.extend(self.place_reports(place));
        }
        said.extend(self.reports.values().flatten().cloned());
        said.extend(self.written.values().cloned());
        said.extend(self.final_written.clone());
        said
    }

    pub(super) fn loaded(&self) -> Event {
        Event::Loaded { worker: self.worker.clone(), model_digest: "d".into() }
    }

    /// What it says once it stands by with a model in memory.
    pub(super) fn standing(&self) -> Option<Event> {
        let (worker, generation) = (self.worker.clone(), self.generation);
        let stands = self.stands && self.is_loaded && self.place.is_none();
        stands.then(|| Event::Standing { worker, generation, step: self.done() })
    }

    pub(super) fn place_reports(&self, place: &Place) -> Vec<Event> {
        let (worker, generation) = (self.worker.clone(), self.generation);
        let mut said = Vec::new();
        if place.rank == Rank(0) {
            let (worker, host) = (worker.clone(), "host".into());
            said.push(Event::StoreReady { worker, generation, host, port: 1 });
        }
        if place.is_ready {
            said.push(Event::Ready { worker, generation, step: self.done() });
        }
        said
    }

    /// The model is in memory.
    pub(super) fn has_loaded(&mut self) -> Vec<Wish> {
        self.is_loaded = true;
        std::iter::once(self.loaded()).chain(self.standing()).map(Wish::Say).collect()
    }

    /// The peers have met, and the weights are there.
    pub(super) fn formed(&mut self, weights: (Step, Value)) -> Vec<Wish> {
        self.weights = Some(weights);
        self.pending = None;
        let Some(place) = &mut self.place else { return Vec::new() };
        place.is_ready = true;
        let (worker, generation) = (self.worker.clone(), self.generation);
        vec![Wish::Say(Event::Ready { worker, generation, step: weights.0 })]
    }

    pub(super) fn apply(&mut self) {
        if let (Some((done, value)), Some((step, attempt))) = (self.weights, self.pending.take()) {
            assert_eq!(step, done.next());
            self.weights = Some((step, moved(value, step, attempt)));
        }
    }

    pub(super) fn commit(&mut self, step: Step) -> Vec<Wish> {
        if step <= self.done() {
            return Vec::new();
        }
        assert_eq!(self.pending.map(|(step, _)| step), Some(step), "commit of what was computed");
        self.apply();
        self.reports.retain(|(of, _, _), _| *of > step);
        self.points.retain(|(of, _, _)| *of > step);
        let mut wishes = Vec::new();
        let is_rank_0 = self.place.as_ref().is_some_and(|place| place.rank == Rank(0));
        if self.save_after.remove(&step) && is_rank_0 {
            wishes.extend(self.save());
        }
        wishes.extend(self.begin());
        wishes.extend(self.stop_if_done());
        wishes
    }

    /// Begins the checkpoint whose turn it is. While another one is being written, there is none of
    /// the last step before a stop.
    fn save(&mut self) -> Option<Wish> {
        let (step, value) = self.weights?;
        self.begun = (step, 0);
        if self.is_stopping && !self.is_busy() && !self.writing.is_empty() {
            return Some(Wish::Say(self.no_checkpoint(step)));
        }
        self.writing.insert(step);
        Some(Wish::Write(step, value))
    }

    fn is_busy(&self) -> bool {
        self.current.is_some() || self.pending.is_some() || !self.queue.is_empty()
    }

    /// Begins what a stop orders as soon as nothing is being written, once an order. If that order
    /// was followed and failed, it says so again.
    fn save_last(&mut self) -> Option<Wish> {
        let (step, value) = self.weights?;
        if !self.writing.is_empty() || self.durable >= step {
            return None;
        }
        let order = (step, self.num_retries);
        if self.begun != order {
            self.begun = order;
            self.writing.insert(step);
            return Some(Wish::Write(step, value));
        }
        let is_written = self.written.contains_key(&step);
        (!is_written).then(|| Wish::Say(self.no_checkpoint(step)))
    }

    pub(super) fn no_checkpoint(&self, step: Step) -> Event {
        let num_retries = if self.begun.0 == step { self.begun.1 } else { 0 };
        let (worker, message) = (self.worker.clone(), "no space left".into());
        Event::CheckpointFailed { worker, step, num_retries, message }
    }

    /// A file lies beside its place, or could not be written.
    pub(super) fn has_written(&mut self, step: Step, said: Event) -> Vec<Wish> {
        if !self.writing.remove(&step) {
            return Vec::new();
        }
        if matches!(said, Event::CheckpointWritten { .. }) {
            self.written.insert(step, said.clone());
        }
        let has_failed = !self.written.contains_key(&step);
        let mut wishes = vec![Wish::Say(said)];
        // A stop may have waited for that. Whoever has just said that it failed does not say it twice.
        if !(has_failed && self.begun == (step, self.num_retries)) {
            wishes.extend(self.stop_if_done());
        }
        wishes
    }

    pub(super) fn has_written_final(&mut self, said: Event) -> Vec<Wish> {
        self.final_written = Some(said.clone());
        vec![Wish::Say(said)]
    }

    pub(super) fn stop_if_done(&mut self) -> Vec<Wish> {
        if !self.is_stopping || self.is_busy() || self.has_left {
            return Vec::new();
        }
        let is_rank_0 = self.place.as_ref().is_some_and(|place| place.rank == Rank(0));
        if is_rank_0 && self.done() > Step(0) {
            return self.save_last().into_iter().collect();
        }
        if !self.leaves_early {
            return Vec::new();
        }
        let mut wishes = self.leave("stopped");
        wishes.push(Wish::Exit);
        wishes
    }

    /// Says that it goes.
    pub(super) fn leave(&mut self, reason: &str) -> Vec<Wish> {
        self.has_left = true;
        let (worker, reason) = (self.worker.clone(), reason.to_owned());
        vec![Wish::Say(Event::Leave { worker, reason })]
    }
}
