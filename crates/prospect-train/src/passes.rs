//! What training and evaluation have in common: checks, passes without gradient, the reference
//! point and the report.

use prospect_core::{
    Microbatch, PartKlSums, PhaseSeconds, Rank, ReferencePoint, ReferenceValue, Sequence, Shard,
    Step, StepPhase, StepReport,
};

use crate::chain::score_batch;
use crate::drift::Packing;
use crate::examples::{PartReferences, References, Tally};
use crate::readback::Readback;
use crate::reduction::parts_here;
use crate::{ReferencePointExchange, TrainError, Trainer, shard as checks};

impl Trainer {
    /// Refuses a shard that is not this rank's or not for these weights, which want `expected`.
    pub(crate) fn begin(&mut self, shard: &Shard, expected: Step) -> Result<(), TrainError> {
        let (kind, found, done) = (shard.kind, shard.step, self.done);
        if found != expected {
            return Err(TrainError::OutOfTurn { kind, found, done });
        }
        let parts = parts_here(&self.config.train, self.world()?);
        checks::check(shard, parts, self.policy.config().vocab_size)?;
        self.progress.set_step(shard.step);
        self.progress.set_phase(StepPhase::Scoring);
        self.align(shard)
    }

    /// Log-probabilities under the reference: those that came with the shard, and the others
    /// computed in the shard's microbatches. The first of those loads the reference.
    pub(crate) fn reference_log_probs(
        &mut self,
        shard: &Shard,
        tally: &mut Tally,
    ) -> Result<References, TrainError> {
        let mut references = References { parts: Vec::new(), computed: Vec::new() };
        for (part_idx, part) in shard.parts.iter().enumerate() {
            let targets: Vec<&Sequence> = part.targets.iter().map(|t| &t.sequence).collect();
            let mismatched: Vec<&Sequence> = part.mismatched.iter().collect();
            let mut complete = |sequences: &[&Sequence], microbatches: &[Microbatch]| {
                let computed = &mut references.computed;
                self.complete_references(sequences, microbatches, computed, |flops| {
                    tally.add_flops(part_idx, flops);
                })
            };
            let targets = complete(&targets, &part.target_microbatches)?;
            let mismatched = complete(&mismatched, &part.mismatched_microbatches)?;
            references.parts.push(PartReferences { targets, mismatched });
        }
        if self.passes.reference > 0 {
            self.reference.ensure_loaded()?;
            self.reference_chain().idle_until(self.passes.reference)?;
        }
        Ok(references)
    }

    /// The reference's values of sequences that the microbatches hold once each.
    fn complete_references(
        &mut self,
        sequences: &[&Sequence],
        microbatches: &[Microbatch],
        computed: &mut Vec<ReferenceValue>,
        mut add_flops: impl FnMut(f64),
    ) -> Result<Vec<(f64, Packing)>, TrainError> {
        let known = |sequence: &&Sequence| Some((sequence.reference_log_prob?, Packing::Other));
        let mut values: Vec<Option<(f64, Packing)>> = sequences.iter().map(known).collect();
        let (mut asked, mut readback) = (Vec::new(), Readback::default());
        for microbatch in microbatches {
            let unknown: Vec<usize> = microbatch
                .iter()
                .map(|&index| index as usize)
                .filter(|&index| values[index].is_none())
                .collect();
            if unknown.is_empty() {
                continue;
            }
            self.reference.ensure_loaded()?;
            let packing =
                if unknown.len() == microbatch.len() { Packing::Same } else { Packing::Other };
            let batch: Vec<&Sequence> = unknown.iter().map(|&index| sequences[index]).collect();
            let loaded = self.reference.loaded();
            readback.push(score_batch(&self.reference_chain(), &batch)?)?;
            batch.iter().for_each(|sequence| add_flops(loaded.cost.scored(sequence)));
            asked.extend(unknown.into_iter().map(|index| (index, packing)));
        }
        for ((index, packing), log_prob) in asked.into_iter().zip(readback.read()?) {
            values[index] = Some((log_prob, packing));
            computed.push(ReferenceValue {
                prompt_row: sequences[index].prompt_row,
                completion_row: sequences[index].completion_row,
                log_prob,
            });
        }
        let values = values.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(values.len(), sequences.len(), "the microbatches hold every sequence");
        Ok(values)
    }

    /// Sums of the log-ratios of this rank's mismatched pairs, by part.
    pub(crate) fn score_mismatched(
        &self,
        shard: &Shard,
        references: &References,
        tally: &mut Tally,
    ) -> Result<Vec<PartKlSums>, TrainError> {
        let mut sums = Vec::with_capacity(shard.parts.len());
        for (part_idx, part) in shard.parts.iter().enumerate() {
            let mut policy = vec![0.0; part.mismatched.len()];
            let mut readback = Readback::default();
            for microbatch in part.mismatched_microbatches.iter().filter(|m| !m.is_empty()) {
                let sequences: Vec<&Sequence> =
                    microbatch.iter().map(|&index| &part.mismatched[index as usize]).collect();
                readback.push(score_batch(&self.policy_chain(), &sequences)?)?;
                for sequence in sequences {
                    tally.add_flops(part_idx, self.policy_cost.scored(sequence));
                }
            }
            let order = part.mismatched_microbatches.iter().flatten();
            for (&index, log_prob) in order.zip(readback.read()?) {
                policy[index as usize] = log_prob;
            }
            sums.push(tally.mismatched(part_idx, part, &policy, references));
        }
        self.policy_chain().idle_until(self.passes.mismatched)?;
        Ok(sums)
    }

    /// Hands in the sums, unless the step has no pairs and the objective needs none.
    pub(crate) fn submit(
        &self,
        shard: &Shard,
        sums: Vec<PartKlSums>,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<bool, TrainError> {
        let exchanges = self.objective.needs_mismatched_pairs() || shard.num_pairs_global > 0;
        if exchanges {
            exchange.submit(sums)?;
        }
        Ok(exchanges)
    }

    /// The reference point of the global batch. Where none comes and this rank has pairs that
    /// are not finite, those are the reason that is told.
    pub(crate) fn reference_point(
        &self,
        shard: &Shard,
        exchanges: bool,
        exchange: &mut dyn ReferencePointExchange,
        tally: &mut Tally,
    ) -> Result<ReferencePoint, TrainError> {
        if !exchanges {
            return Ok(ReferencePoint::default());
        }
        self.progress.set_phase(StepPhase::ReferencePoint);
        match exchange.wait() {
            Ok(point) => Ok(point),
            Err(_) if !tally.not_finite.is_empty() => {
                let unknown = ReferencePoint { raw: f64::NAN, ..ReferencePoint::default() };
                let tally = std::mem::replace(tally, Tally::new(shard, None));
                Err(self.not_finite_here(shard.step, tally, &unknown))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn report(
        &self,
        shard: &Shard,
        tally: Tally,
        computed: Vec<ReferenceValue>,
        (grad_norm, phase_seconds): (f64, PhaseSeconds),
    ) -> Result<StepReport, TrainError> {
        Ok(StepReport {
            rank: Rank(self.world()?.rank() as u32),
            step: shard.step,
            kind: shard.kind,
            eval_index: shard.eval_index,
            parts: tally.parts,
            grad_norm,
            reference_values: if self.config.reference.cache { computed } else { Vec::new() },
            phase_seconds,
            peak_memory_bytes: self.peak_memory_bytes()?,
        })
    }
}
