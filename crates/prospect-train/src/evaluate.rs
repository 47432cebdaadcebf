//! One pass of evaluation: forward only, with the weights as they are.

use prospect_core::{PhaseSeconds, Shard, StepPhase, StepReport};

use crate::clock::Clock;
use crate::error::failpoint;
use crate::examples::Tally;
use crate::passes::sequences;
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
        // Targets and mismatched pairs together, so that they share their prompts.
        let (mut policy, mut kl_sums) = (Vec::new(), Vec::new());
        for (part_idx, part) in shard.parts.iter().enumerate() {
            let mut targets =
                self.policy_log_probs((part_idx, part), &sequences(part), &mut tally)?;
            let mismatched = targets.split_off(part.targets.len());
            kl_sums.push(tally.mismatched(part_idx, part, &mismatched, &references));
            policy.push(targets);
        }
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        seconds.scoring += clock.lap();
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        seconds.reference_point += clock.lap();
        for (part_idx, log_probs) in policy.iter().enumerate() {
            let context = (&references, &point, self.objective.as_ref());
            let all: Vec<u32> = (0..log_probs.len() as u32).collect();
            tally.targets((shard, part_idx), &all, log_probs, context);
        }
        if !point.raw.is_finite() || !tally.not_finite.is_empty() {
            return Err(self.not_finite_here(shard.step, tally, &point));
        }
        seconds.total = clock.total();
        self.report(shard, tally, references.computed, (0.0, seconds))
    }
}
