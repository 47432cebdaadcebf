//! One pass of evaluation: forward only, with the weights as they are.

use prospect_core::{PhaseSeconds, Shard, StepPhase, StepReport};

use crate::chain::score_batch;
use crate::clock::Clock;
use crate::error::failpoint;
use crate::examples::Tally;
use crate::{ReferencePointExchange, TrainError, Trainer};

impl Trainer {
    /// Evaluates this rank's shard with the weights as they are, which are those of the shard's
    /// step. What is pending stays so.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] on the ranks that hold a log-ratio that is not finite; what the
    /// models or the exchange fail with.
    pub fn evaluate(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        let report = self.compute_evaluation(shard, exchange);
        self.progress.set_phase(StepPhase::Idle);
        report
    }

    fn compute_evaluation(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        let (mut clock, mut seconds) = (Clock::start(), PhaseSeconds::default());
        self.begin(shard, self.done)?;
        failpoint("worker::eval")?;
        let mut tally = Tally::new(shard, None);
        let references = self.reference_log_probs(shard, &mut tally)?;
        let kl_sums = self.score_mismatched(shard, &references, &mut tally)?;
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        let mut scored = Vec::new();
        for (part_idx, part) in shard.parts.iter().enumerate() {
            for microbatch in part.target_microbatches.iter().filter(|m| !m.is_empty()) {
                let sequences: Vec<_> = microbatch
                    .iter()
                    .map(|&index| &part.targets[index as usize].sequence)
                    .collect();
                let log_probs = score_batch(&self.policy_chain(), &sequences)?;
                scored.push((part_idx, microbatch, log_probs));
            }
            for target in &part.targets {
                tally.add_flops(part_idx, self.policy_cost.scored(&target.sequence));
            }
        }
        self.policy_chain().idle_until(self.passes.mismatched + self.passes.targets)?;
        seconds.scoring += clock.lap();
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        seconds.reference_point += clock.lap();
        for (part_idx, microbatch, log_probs) in &scored {
            let context = (&references, &point, self.objective.as_ref());
            tally.targets((shard, *part_idx), microbatch, log_probs, context);
        }
        if !point.raw.is_finite() || !tally.not_finite.is_empty() {
            return Err(self.not_finite_here(shard.step, tally, &point));
        }
        seconds.gather = self.take_gather_seconds();
        seconds.total = clock.total();
        self.report(shard, tally, references.computed, (0.0, seconds))
    }
}
