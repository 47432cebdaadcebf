//! What training and evaluation have in common: checks, passes without gradient, the reference
//! point and the report.

use prospect_core::{
    PartKlSums, PhaseSeconds, Rank, ReferencePoint, ReferenceValue, Sequence, Shard, ShardKind,
    ShardPart, Step, StepPhase, StepReport,
};

use crate::chain::{Scores, score_passes};
use crate::drift::Packing;
use crate::examples::{PartReferences, References, Tally};
use crate::readback::Readback;
use crate::reduction::parts_here;
use crate::sharing::{Pass, Prompts, budget, pack};
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

    /// Passes without gradient, read from the device once, behind the last. Log-probabilities under
    /// the reference: those that came with the shard, and the others computed, targets and mismatched
    /// pairs together; the first of those loads the reference. And those under the policy of the
    /// sequences of each part that `which` gives.
    pub(crate) fn score(
        &mut self,
        shard: &Shard,
        which: fn(&ShardPart) -> Vec<&Sequence>,
        tally: &mut Tally,
    ) -> Result<(References, Vec<Vec<f64>>), TrainError> {
        if self.passes.reference > 0 {
            let group = self.group.as_ref().ok_or(TrainError::NoWorld)?;
            self.reference.ensure_all_loaded(group, self.device)?;
        }
        let mut readback = Readback::default();
        let mut scored = Vec::with_capacity(shard.parts.len());
        for (part_idx, part) in shard.parts.iter().enumerate() {
            let sequences = sequences(part);
            let (passes, packing) = reference_passes(part, &sequences, tally.drift.is_some());
            let mut scores = None;
            if !passes.is_empty() {
                // Where each rank does this for itself, the others wait for its sums, for any time.
                self.reference.ensure_loaded()?;
                let given =
                    score_passes(&self.reference_chain(), &sequences, &passes, &mut readback)?;
                let cost = &self.reference.loaded().cost;
                tally.add_flops(part_idx, given.needed_flops(cost, &sequences));
                tally.parts[part_idx].sums.num_shared_tokens += given.num_shared_tokens;
                scores = Some(given);
            }
            scored.push((sequences, packing, scores));
        }
        if self.passes.reference > 0 {
            self.reference_chain().idle_until(self.passes.reference)?;
        }
        let policy = self.score_policy(shard, which, (tally, &mut readback))?;
        let read = readback.read()?;
        let mut references = References { parts: Vec::new(), computed: Vec::new() };
        for ((sequences, packing, scores), part) in scored.into_iter().zip(&shard.parts) {
            let known = |sequence: &&Sequence| Some((sequence.reference_log_prob?, Packing::Other));
            let mut values: Vec<Option<(f64, Packing)>> = sequences.iter().map(known).collect();
            for (idx, log_prob) in scores.iter().flat_map(|scores| scores.pairs(&read)) {
                values[idx] = Some((log_prob, packing[idx]));
                references.computed.push(ReferenceValue {
                    prompt_row: sequences[idx].prompt_row,
                    completion_row: sequences[idx].completion_row,
                    log_prob,
                });
            }
            let mut targets: Vec<_> = values.into_iter().flatten().collect();
            assert_eq!(targets.len(), sequences.len(), "the passes hold what is not known");
            let mismatched = targets.split_off(part.targets.len());
            references.parts.push(PartReferences { targets, mismatched });
        }
        let in_order = |(count, scores): &(usize, Scores)| scores.in_order(*count, &read);
        Ok((references, policy.iter().map(in_order).collect()))
    }

    /// Passes without gradient of the policy over those sequences of each part that `which` gives,
    /// with their numbers.
    fn score_policy(
        &self,
        shard: &Shard,
        which: fn(&ShardPart) -> Vec<&Sequence>,
        (tally, readback): (&mut Tally, &mut Readback),
    ) -> Result<Vec<(usize, Scores)>, TrainError> {
        let mut scored = Vec::with_capacity(shard.parts.len());
        for (part_idx, part) in shard.parts.iter().enumerate() {
            let sequences = which(part);
            let passes = pack(&sequences, 0..sequences.len(), budget(part));
            let scores = score_passes(&self.policy_chain(), &sequences, &passes, readback)?;
            tally.add_flops(part_idx, scores.needed_flops(&self.policy_cost, &sequences));
            tally.parts[part_idx].sums.num_shared_tokens += scores.num_shared_tokens;
            scored.push((sequences.len(), scores));
        }
        self.policy_chain().idle_until(self.passes.scoring)?;
        Ok(scored)
    }

    /// Whether this step finds out that policy and reference are not computed alike.
    pub(crate) fn checks_drift(&self, kind: ShardKind) -> bool {
        kind == ShardKind::Train && self.is_initial && self.reference_is_policy
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

/// The mismatched pairs of a part.
pub(crate) fn mismatched(part: &ShardPart) -> Vec<&Sequence> {
    part.mismatched.iter().collect()
}

/// The sequences of a part: its targets, then its mismatched pairs.
pub(crate) fn sequences(part: &ShardPart) -> Vec<&Sequence> {
    part.targets.iter().map(|target| &target.sequence).chain(&part.mismatched).collect()
}

/// Passes over those of a part's sequences whose reference value is not known, and what each
/// sequence's value is packed with. Where the drift of targets and of mismatched pairs is checked,
/// each are packed as the policy's, otherwise both together, so that they share their prompts.
pub(crate) fn reference_passes(
    part: &ShardPart,
    sequences: &[&Sequence],
    checks_drift: bool,
) -> (Vec<Pass>, Vec<Packing>) {
    let is_unknown = |idx: &usize| sequences[*idx].reference_log_prob.is_none();
    let mut packing = vec![Packing::Other; sequences.len()];
    if !checks_drift {
        let unknown = (0..sequences.len()).filter(is_unknown);
        return (pack(sequences, unknown, budget(part)), packing);
    }
    let mut passes = Vec::new();
    for microbatch in &part.target_microbatches {
        let places = microbatch.iter().map(|&idx| idx as usize);
        let indices: Vec<usize> = places.filter(is_unknown).collect();
        if indices.len() == microbatch.len() {
            indices.iter().for_each(|&idx| packing[idx] = Packing::Same);
        }
        if !indices.is_empty() {
            passes.push(Pass { indices, prompts: Prompts::Apart });
        }
    }
    let mismatched = part.targets.len()..sequences.len();
    if mismatched.clone().all(|idx| is_unknown(&idx)) {
        packing[mismatched.clone()].fill(Packing::Same);
    }
    passes.extend(pack(sequences, mismatched.filter(is_unknown), budget(part)));
    (passes, packing)
}
