//! From log-probabilities to loss terms: what the objective says of each sequence, added up, and
//! what is not finite, by name.

use prospect_core::{KlSums, ReferencePoint, ReferenceValue, Sequence, Shard, StepSums};

use crate::{ExampleLogProbs, NotFiniteExample, Objective};

/// Log-probabilities under the reference, known or computed in this step.
pub(crate) struct References {
    /// Per target.
    pub(crate) targets: Vec<f64>,
    /// Per mismatched sequence.
    pub(crate) mismatched: Vec<f64>,
    /// Those that were computed.
    pub(crate) computed: Vec<ReferenceValue>,
}

/// What a step adds up while it goes through its sequences.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) sums: StepSums,
    pub(crate) not_finite: Vec<NotFiniteExample>,
}

impl Tally {
    /// Sums over the mismatched pairs, whose policy log-probabilities these are.
    pub(crate) fn mismatched(
        &mut self,
        shard: &Shard,
        policy: &[f64],
        references: &References,
    ) -> KlSums {
        let mut sums = KlSums::default();
        for ((sequence, &policy), &reference) in
            shard.mismatched.iter().zip(policy).zip(&references.mismatched)
        {
            self.notice(sequence, policy, reference);
            self.sums.num_mismatched_tokens += sequence.num_tokens() as u64;
            sums.push(policy - reference);
        }
        sums
    }

    /// Adds the targets of one microbatch and returns the derivative of the global loss with
    /// respect to each one's log-probability. Where a log-ratio is not finite the derivative is
    /// NaN, so that the gradient of no rank passes for finite.
    pub(crate) fn targets(
        &mut self,
        shard: &Shard,
        microbatch: &[u32],
        policy: &[f64],
        (references, point, objective): (&References, &ReferencePoint, &dyn Objective),
    ) -> Vec<f64> {
        let num_examples = f64::from(shard.num_examples_global);
        let mut coefficients = Vec::with_capacity(microbatch.len());
        for (&index, &policy) in microbatch.iter().zip(policy) {
            let target = &shard.targets[index as usize];
            let example = ExampleLogProbs {
                policy,
                reference: references.targets[index as usize],
                num_tokens: target.sequence.num_completion_tokens() as u64,
                label: target.label,
                weight: target.weight,
            };
            let term = objective.evaluate(&example, point.z0);
            let is_finite = self.notice(&target.sequence, policy, example.reference);
            coefficients.push(if is_finite { term.coefficient / num_examples } else { f64::NAN });
            let sums = &mut self.sums;
            sums.loss += term.loss;
            sums.num_correct += u64::from(term.is_correct);
            sums.saturation += term.saturation;
            sums.num_tokens += target.sequence.num_tokens() as u64;
            if target.label.is_desirable() {
                sums.num_desirable += 1;
                sums.reward_desirable += term.reward;
                sums.log_prob_desirable += policy;
            } else {
                sums.num_undesirable += 1;
                sums.reward_undesirable += term.reward;
                sums.log_prob_undesirable += policy;
            }
        }
        coefficients
    }

    /// Whether the log-ratio is finite; if not, the sequence is written down.
    fn notice(&mut self, sequence: &Sequence, policy: f64, reference: f64) -> bool {
        let is_finite = (policy - reference).is_finite();
        if !is_finite {
            self.not_finite.push(NotFiniteExample {
                prompt_row: sequence.prompt_row,
                completion_row: sequence.completion_row,
                policy_log_prob: policy,
                reference_log_prob: reference,
            });
        }
        is_finite
    }
}
