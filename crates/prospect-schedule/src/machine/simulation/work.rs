//! What a simulated worker computes: sums over the rows of its parts, pass after pass.

use std::ops::Range;

use prospect_core::{
    KlSums, PartKlSums, PartSums, PhaseSeconds, ShardKind, StepPhase, StepReport, StepSums,
    parts_of_rank,
};

use super::disk::{contribution, rows_of_part};
use super::process::{Job, Key, Process, Wish};
use crate::machine::Event;

impl Process {
    pub(super) fn take_shard(&mut self, job: Job) -> Vec<Wish> {
        let is_known = self.reports.contains_key(&job.key)
            || self.queue.iter().chain(&self.current).any(|known| known.key == job.key);
        let is_over = !job.key.1 && job.key.0 <= self.done();
        if is_known || is_over || self.is_broken {
            return Vec::new();
        }
        self.queue.push_back(job);
        self.begin()
    }

    /// Begins the next pass if nothing else is under way.
    pub(super) fn begin(&mut self) -> Vec<Wish> {
        let is_busy = self.current.is_some() || self.pending.is_some();
        let Some(job) = self.queue.pop_front_if(|_| !is_busy) else { return Vec::new() };
        let (step, is_eval, _) = job.key;
        let expected = if is_eval { self.done() } else { self.done().next() };
        assert_eq!(step, expected, "{} begins what it has weights for", self.worker);
        let key = job.key;
        self.current = Some(Job { phase: StepPhase::Scoring, ..job });
        vec![Wish::Compute(key)]
    }

    /// Something was computed.
    pub(super) fn computed(&mut self, key: Key) -> Vec<Wish> {
        let generation = self.generation;
        let Some(job) = self.current.as_mut().filter(|job| job.key == key) else {
            return Vec::new();
        };
        self.progress += 1;
        if job.phase == StepPhase::Scoring {
            job.phase = StepPhase::ReferencePoint;
            let said = self.kl_report();
            self.reports.insert(key, vec![said.clone()]);
            let mut wishes = vec![Wish::Say(said)];
            wishes.extend(self.has_point());
            return wishes;
        }
        job.phase = StepPhase::AllReduce;
        vec![Wish::Reduce(generation, key)]
    }

    pub(super) fn has_point(&mut self) -> Vec<Wish> {
        let points = &self.points;
        let waits =
            |job: &&mut Job| job.phase == StepPhase::ReferencePoint && points.contains(&job.key);
        let Some(job) = self.current.as_mut().filter(waits) else { return Vec::new() };
        job.phase = StepPhase::ForwardBackward;
        vec![Wish::Compute(job.key)]
    }

    /// All ranks have taken part in the collective.
    pub(super) fn reduced(&mut self, key: Key) -> Vec<Wish> {
        let said = match self.current.as_ref().filter(|job| job.key == key) {
            Some(job) if job.phase == StepPhase::AllReduce => self.step_report(),
            _ => return Vec::new(),
        };
        let Some(job) = self.current.take() else { return Vec::new() };
        self.progress += 1;
        self.reports.entry(key).or_default().push(said.clone());
        let (step, is_eval, _) = key;
        if !is_eval {
            self.pending = Some((step, job.attempt));
            if job.checkpoint_after {
                self.save_after.insert(step);
            }
        }
        let mut wishes = vec![Wish::Say(said)];
        wishes.extend(self.begin());
        wishes.extend(self.stop_if_done());
        wishes
    }

    fn own_parts(&self, num_parts: u32) -> Range<u32> {
        let place = self.place.as_ref().expect("a worker that computes has a place");
        parts_of_rank(place.rank, place.world_size, num_parts)
    }

    fn part_sum(&self, job: &Job, part: u32) -> (f64, u64) {
        let (step, is_eval, idx) = job.key;
        let kind = if is_eval { ShardKind::Eval } else { ShardKind::Train };
        let weights = self.weights.map_or(0, |(_, value)| value);
        let rows: Vec<u32> = rows_of_part(part, job.num_parts).collect();
        let sum = rows.iter().map(|row| contribution(weights, step, kind, idx, *row)).sum();
        (sum, rows.len() as u64)
    }

    fn kl_report(&self) -> Event {
        let job = self.current.as_ref().expect("a pass is being done");
        let parts = self.own_parts(job.num_parts).map(|part| {
            let (sum, count) = self.part_sum(job, part);
            PartKlSums { part, sums: KlSums { sum, sum_of_squares: sum, count } }
        });
        let (step, is_eval, eval_index) = job.key;
        Event::KlReport {
            worker: self.worker.clone(),
            generation: self.generation,
            step,
            kind: if is_eval { ShardKind::Eval } else { ShardKind::Train },
            eval_index,
            parts: parts.collect(),
        }
    }

    fn step_report(&self) -> Event {
        let job = self.current.as_ref().expect("a pass is being done");
        let parts = self.own_parts(job.num_parts).map(|part| {
            let (loss, num_desirable) = self.part_sum(job, part);
            PartSums { part, sums: StepSums { loss, num_desirable, ..StepSums::default() } }
        });
        let (step, is_eval, eval_index) = job.key;
        let report = StepReport {
            step,
            kind: if is_eval { ShardKind::Eval } else { ShardKind::Train },
            eval_index,
            parts: parts.collect(),
            phase_seconds: PhaseSeconds { forward_backward: 1.0, ..PhaseSeconds::default() },
            ..StepReport::default()
        };
        Event::StepReport { worker: self.worker.clone(), generation: self.generation, report }
    }
}
