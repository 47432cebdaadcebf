//! One pass of evaluation: forward only, with the weights as they are.

use prospect_core::{Shard, StepPhase, StepReport};

use crate::clock::{Clock, Phase};
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
        let clock = Clock::new(self.device);
        clock.lap(Phase::Scoring)?;
        self.begin(shard, self.done)?;
        failpoint("worker::eval")?;
        let mut tally = Tally::new(shard, None);
        // Targets and mismatched pairs together, so that they share their prompts.
        let (references, policy) = self.score(shard, sequences, &mut tally)?;
        let mut kl_sums = Vec::new();
        for ((part_idx, part), log_probs) in shard.parts.iter().enumerate().zip(&policy) {
            let mismatched = &log_probs[part.targets.len()..];
            kl_sums.push(tally.mismatched(part_idx, part, mismatched, &references));
        }
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        clock.lap(Phase::Scoring)?;
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        clock.lap(Phase::ReferencePoint)?;
        for ((part_idx, part), log_probs) in shard.parts.iter().enumerate().zip(&policy) {
            let context = (&references, &point, self.objective.as_ref());
            let all: Vec<u32> = (0..part.targets.len() as u32).collect();
            tally.targets((shard, part_idx), &all, log_probs, context);
        }
        if !point.raw.is_finite() || !tally.not_finite.is_empty() {
            return Err(self.not_finite_here(shard.step, tally, &point));
        }
        let seconds = self.seconds(&clock)?;
        self.report(shard, tally, references.computed, (0.0, seconds))
    }
}
