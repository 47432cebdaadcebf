//! One pass of evaluation: forward only, with the weights as they are.

use prospect_core::{PhaseSeconds, Shard, StepPhase, StepReport};

use crate::chain::score_batch;
use crate::clock::{Clock, Phase};
use crate::error::failpoint;
use crate::examples::Tally;
use crate::readback::Readback;
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
        // This is no step's time.
        self.clock.stop();
        let report = self.compute_evaluation(shard, exchange);
        self.progress.set_phase(StepPhase::Idle);
        report
    }

    fn compute_evaluation(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        let mut clock = Clock::new(self.device);
        clock.lap(Phase::Scoring)?;
        self.begin(shard, self.done)?;
        failpoint("worker::eval")?;
        let mut tally = Tally::new(shard, None);
        let references = self.reference_log_probs(shard, &mut tally)?;
        let kl_sums = self.score_mismatched(shard, &references, &mut tally)?;
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        let (mut scored, mut readback) = (Vec::new(), Readback::default());
        for (part_idx, part) in shard.parts.iter().enumerate() {
            for microbatch in part.target_microbatches.iter().filter(|m| !m.is_empty()) {
                let sequences: Vec<_> = microbatch
                    .iter()
                    .map(|&index| &part.targets[index as usize].sequence)
                    .collect();
                let log_probs_s = score_batch(&self.policy_chain(), &sequences)?;
                scored.push((part_idx, microbatch, readback.push(log_probs_s)?));
            }
            for target in &part.targets {
                tally.add_flops(part_idx, self.policy_cost.scored(&target.sequence));
            }
        }
        self.policy_chain().idle_until(self.passes.mismatched + self.passes.targets)?;
        let log_probs = readback.read()?;
        clock.lap(Phase::Scoring)?;
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        clock.lap(Phase::ReferencePoint)?;
        for (part_idx, microbatch, places) in scored {
            let context = (&references, &point, self.objective.as_ref());
            tally.targets((shard, part_idx), microbatch, &log_probs[places], context);
        }
        if !point.raw.is_finite() || !tally.not_finite.is_empty() {
            return Err(self.not_finite_here(shard.step, tally, &point));
        }
        let seconds = PhaseSeconds { gather: self.take_gather_seconds(), ..clock.read()? };
        self.report(shard, tally, references.computed, (0.0, seconds))
    }
}
