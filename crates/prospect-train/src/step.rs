//! One step of training, and one of evaluation.

use std::time::Instant;

use prospect_core::{
    KlSums, PhaseSeconds, Rank, ReferencePoint, ReferenceValue, Sequence, Shard, StepReport,
};

use crate::chain::{ForwardPass, score_batch};
use crate::examples::{References, Tally};
use crate::optimizer::{clip, gradient_norm, update};
use crate::reduction::Reduction;
use crate::{ReferencePointExchange, TrainError, Trainer, shard as checks};

/// Measures phases one after the other.
struct Clock {
    start: Instant,
    last: Instant,
}

impl Trainer {
    /// Trains on this rank's shard. Every rank of the world calls this with its own shard of the
    /// same step; the loss is the sum over all ranks' targets divided by their number.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] on every rank, before the weights move, where a log-ratio or the
    /// gradient is not finite; what the models, the ranks or the exchange fail with.
    pub fn step(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        let (mut clock, mut seconds) = (Clock::start(), PhaseSeconds::default());
        checks::check(shard, self.policy.config().vocab_size)?;
        let mut tally = Tally::default();
        let references = self.reference_log_probs(shard, &mut tally)?;
        let kl_sums = self.score_mismatched(shard, &references, &mut tally)?;
        seconds.scoring += clock.lap();

        // The first forward pass runs while the other ranks' sums are on their way.
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        self.parameters.zero_gradients()?;
        let mut microbatches =
            shard.target_microbatches.iter().filter(|m| !m.is_empty()).peekable();
        let mut ahead = microbatches.peek().map(|m| self.forward(shard, m)).transpose()?;
        seconds.forward_backward += clock.lap();
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        if !point.raw.is_finite() {
            return Err(self.not_finite_everywhere(shard.step, tally, &point, None)?);
        }
        seconds.reference_point += clock.lap();

        let mut reduction = Reduction::new(&self.group, &self.parameters);
        while let Some(microbatch) = microbatches.next() {
            let pass = match ahead.take() {
                Some(pass) => pass,
                None => self.forward(shard, microbatch)?,
            };
            let context = (&references, &point, self.objective.as_ref());
            let coefficients = tally.targets(shard, microbatch, &pass.log_probs, context);
            let last = microbatches.peek().is_none();
            let overlap = last.then_some(&mut reduction);
            pass.backward(&self.policy, &self.parameters, &coefficients, overlap)?;
        }
        for target in &shard.targets {
            tally.sums.flops += self.policy_cost.trained(&target.sequence);
        }
        seconds.forward_backward += clock.lap();
        reduction.finish(&self.parameters)?;
        seconds.all_reduce += clock.lap();

        // The norm comes from the device, which has done all reductions by then. Sums that a
        // failed one left behind mean a lost peer, whatever their norm.
        let grad_norm = gradient_norm(&self.parameters)?;
        self.group.check_health()?;
        if !grad_norm.is_finite() {
            return Err(self.not_finite_everywhere(shard.step, tally, &point, Some(grad_norm))?);
        }
        clip(&mut self.parameters, grad_norm, self.config.train.max_grad_norm)?;
        update(&mut self.parameters, &self.config.train, shard.learning_rate)?;
        seconds.optimizer += clock.lap();
        seconds.total = clock.total();
        self.report(shard, tally, references.computed, (grad_norm, seconds))
    }

    /// Evaluates this rank's shard with the weights as they are, forward only.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] on the ranks that hold a log-ratio that is not finite; what the
    /// models or the exchange fail with.
    pub fn evaluate(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        let (mut clock, mut seconds) = (Clock::start(), PhaseSeconds::default());
        checks::check(shard, self.policy.config().vocab_size)?;
        let mut tally = Tally::default();
        let references = self.reference_log_probs(shard, &mut tally)?;
        let kl_sums = self.score_mismatched(shard, &references, &mut tally)?;
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        let mut log_probs = Vec::with_capacity(shard.target_microbatches.len());
        for microbatch in shard.target_microbatches.iter().filter(|m| !m.is_empty()) {
            let sequences = targets(shard, microbatch);
            log_probs.push((microbatch, score_batch(&self.policy, &sequences)?));
        }
        for target in &shard.targets {
            tally.sums.flops += self.policy_cost.scored(&target.sequence);
        }
        seconds.scoring += clock.lap();
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        seconds.reference_point += clock.lap();
        for (microbatch, log_probs) in &log_probs {
            let context = (&references, &point, self.objective.as_ref());
            tally.targets(shard, microbatch, log_probs, context);
        }
        if !point.raw.is_finite() || !tally.not_finite.is_empty() {
            return Err(self.not_finite_here(shard.step, tally, &point));
        }
        seconds.total = clock.total();
        self.report(shard, tally, references.computed, (0.0, seconds))
    }

    /// Log-probabilities under the reference: those that came with the shard, and the others
    /// computed in the shard's microbatches. The first of those loads the reference.
    fn reference_log_probs(
        &mut self,
        shard: &Shard,
        tally: &mut Tally,
    ) -> Result<References, TrainError> {
        let mut computed = Vec::new();
        let targets: Vec<&Sequence> = shard.targets.iter().map(|t| &t.sequence).collect();
        let mismatched: Vec<&Sequence> = shard.mismatched.iter().collect();
        if targets.iter().chain(&mismatched).any(|s| s.reference_log_prob.is_none()) {
            self.reference.ensure_loaded()?;
        }
        let reference = &self.reference;
        let mut complete = |sequences: &[&Sequence], microbatches: &[Vec<u32>]| {
            let mut values: Vec<Option<f64>> =
                sequences.iter().map(|sequence| sequence.reference_log_prob).collect();
            for microbatch in microbatches {
                let unknown: Vec<usize> = microbatch
                    .iter()
                    .map(|&index| index as usize)
                    .filter(|&index| values[index].is_none())
                    .collect();
                if unknown.is_empty() {
                    continue;
                }
                let batch: Vec<&Sequence> = unknown.iter().map(|&index| sequences[index]).collect();
                let loaded = reference.loaded();
                for (index, log_prob) in
                    unknown.into_iter().zip(score_batch(&loaded.model, &batch)?)
                {
                    values[index] = Some(log_prob);
                    tally.sums.flops += loaded.cost.scored(sequences[index]);
                    computed.push(ReferenceValue {
                        prompt_row: sequences[index].prompt_row,
                        completion_row: sequences[index].completion_row,
                        log_prob,
                    });
                }
            }
            let known = values.into_iter().flatten().collect::<Vec<f64>>();
            assert_eq!(known.len(), sequences.len(), "the microbatches hold every sequence");
            Ok::<_, TrainError>(known)
        };
        Ok(References {
            targets: complete(&targets, &shard.target_microbatches)?,
            mismatched: complete(&mismatched, &shard.mismatched_microbatches)?,
            computed,
        })
    }

    /// Sums of the log-ratios of this rank's mismatched pairs.
    fn score_mismatched(
        &self,
        shard: &Shard,
        references: &References,
        tally: &mut Tally,
    ) -> Result<KlSums, TrainError> {
        let mut policy = vec![0.0; shard.mismatched.len()];
        for microbatch in shard.mismatched_microbatches.iter().filter(|m| !m.is_empty()) {
            let sequences: Vec<&Sequence> =
                microbatch.iter().map(|&index| &shard.mismatched[index as usize]).collect();
            let log_probs = score_batch(&self.policy, &sequences)?;
            for ((&index, sequence), log_prob) in microbatch.iter().zip(sequences).zip(log_probs) {
                policy[index as usize] = log_prob;
                tally.sums.flops += self.policy_cost.scored(sequence);
            }
        }
        Ok(tally.mismatched(shard, &policy, references))
    }

    /// Hands in the sums, unless the step has no pairs and the objective needs none.
    fn submit(
        &self,
        shard: &Shard,
        sums: KlSums,
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
    fn reference_point(
        &self,
        shard: &Shard,
        exchanges: bool,
        exchange: &mut dyn ReferencePointExchange,
        tally: &mut Tally,
    ) -> Result<ReferencePoint, TrainError> {
        if !exchanges {
            return Ok(ReferencePoint::default());
        }
        match exchange.wait() {
            Ok(point) => Ok(point),
            Err(_) if !tally.not_finite.is_empty() => {
                let unknown = ReferencePoint { raw: f64::NAN, ..ReferencePoint::default() };
                Err(self.not_finite_here(shard.step, std::mem::take(tally), &unknown))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn forward(&self, shard: &Shard, microbatch: &[u32]) -> Result<ForwardPass, TrainError> {
        ForwardPass::new(&self.policy, &targets(shard, microbatch), self.config.train.recompute)
    }

    fn report(
        &self,
        shard: &Shard,
        tally: Tally,
        computed: Vec<ReferenceValue>,
        (grad_norm, phase_seconds): (f64, PhaseSeconds),
    ) -> Result<StepReport, TrainError> {
        Ok(StepReport {
            rank: Rank(self.group.rank() as u32),
            step: shard.step,
            kind: shard.kind,
            eval_index: shard.eval_index,
            sums: tally.sums,
            grad_norm,
            reference_values: if self.config.reference.cache { computed } else { Vec::new() },
            phase_seconds,
            peak_memory_bytes: self.peak_memory_bytes()?,
        })
    }
}

/// The target sequences of a microbatch.
fn targets<'a>(shard: &'a Shard, microbatch: &[u32]) -> Vec<&'a Sequence> {
    microbatch.iter().map(|&index| &shard.targets[index as usize].sequence).collect()
}

// === impl Clock ===

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self { start: now, last: now }
    }

    /// Seconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.last, now)).as_secs_f64()
    }

    /// Seconds since the start.
    fn total(&self) -> f64 {
        self.last.duration_since(self.start).as_secs_f64()
    }
}
