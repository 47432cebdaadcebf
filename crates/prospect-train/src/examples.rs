//! From log-probabilities to loss terms: what the objective says of each sequence, on the device as
//! coefficients of the backward pass and on the host added up part by part; and what is not finite
//! or has drifted, by name.
//!
//! Shape suffix: s sequences of a microbatch.

use prospect_core::{
    KlSums, Label, PartKlSums, PartSums, ReferencePoint, ReferenceValue, Sequence, Shard,
    ShardPart, Target,
};
use tch::Tensor;

use crate::drift::{DriftCheck, Packing};
use crate::{BatchLogProbs, ExampleLogProbs, NotFiniteExample, Objective, TrainError};
use prospect_libtorch::upload;

/// Log-probabilities under the reference, known or computed in this step.
pub(crate) struct References {
    /// Per part of the shard.
    pub(crate) parts: Vec<PartReferences>,
    /// Those that were computed.
    pub(crate) computed: Vec<ReferenceValue>,
}

/// Log-probabilities under the reference, each with what it was packed with.
pub(crate) struct PartReferences {
    /// Per target.
    pub(crate) targets: Vec<(f64, Packing)>,
    /// Per mismatched sequence.
    pub(crate) mismatched: Vec<(f64, Packing)>,
}

/// What the losses of a pass follow from, beside log-probabilities under the policy.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) references: &'a References,
    pub(crate) point: &'a ReferencePoint,
}

/// Targets that are computed together.
#[derive(Clone, Copy)]
pub(crate) struct Targets<'a> {
    /// Place of their part in the shard.
    pub(crate) part_idx: usize,
    /// Their places in the part.
    pub(crate) indices: &'a [u32],
}

/// What a step adds up while it goes through its sequences. Parts are named by their place in the
/// shard.
pub(crate) struct Tally {
    /// Per part of the shard.
    pub(crate) parts: Vec<PartSums>,
    pub(crate) not_finite: Vec<NotFiniteExample>,
    /// Before the first update of a policy that is its own reference.
    pub(crate) drift: Option<DriftCheck>,
}

impl Tally {
    /// Nothing added up yet.
    pub(crate) fn new(shard: &Shard, drift: Option<DriftCheck>) -> Self {
        let parts =
            shard.parts.iter().map(|part| PartSums { part: part.part, ..PartSums::default() });
        Self { parts: parts.collect(), not_finite: Vec::new(), drift }
    }

    /// Adds floating-point operations to a part.
    pub(crate) fn add_flops(&mut self, part_idx: usize, flops: f64) {
        self.parts[part_idx].sums.flops += flops;
    }

    /// Sums over the mismatched pairs of a part, whose policy log-probabilities these are.
    pub(crate) fn mismatched(
        &mut self,
        part_idx: usize,
        part: &ShardPart,
        policy: &[f64],
        references: &References,
    ) -> PartKlSums {
        let mut sums = KlSums::default();
        let references = &references.parts[part_idx].mismatched;
        for ((sequence, &policy), &reference) in part.mismatched.iter().zip(policy).zip(references)
        {
            self.notice(sequence, None, policy, reference);
            self.parts[part_idx].sums.num_mismatched_tokens += sequence.num_tokens() as u64;
            sums.push(policy - reference.0);
        }
        PartKlSums { part: part.part, sums }
    }

    /// Adds targets whose policy log-probabilities these are.
    pub(crate) fn targets(
        &mut self,
        targets: Targets<'_>,
        policy: &[f64],
        given: Given<'_>,
        objective: &dyn Objective,
    ) {
        for ((target, reference), &policy) in targets.of(given).zip(policy) {
            let term = objective.evaluate(&example(target, policy, reference.0), given.point.z0);
            self.notice(&target.sequence, Some(target.label), policy, reference);
            let sums = &mut self.parts[targets.part_idx].sums;
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
    }

    /// Refuses a step in which a log-ratio that has to be 0 is not.
    pub(crate) fn refuse_drift(&self) -> Result<(), TrainError> {
        match self.drift.and_then(|drift| drift.found) {
            Some(drift) => Err(TrainError::Drift(Box::new(drift))),
            None => Ok(()),
        }
    }

    /// Writes down a sequence whose log-ratio is not finite, and checks the others.
    fn notice(
        &mut self,
        sequence: &Sequence,
        label: Option<Label>,
        policy: f64,
        reference: (f64, Packing),
    ) {
        if !(policy - reference.0).is_finite() {
            self.not_finite.push(NotFiniteExample {
                prompt_row: sequence.prompt_row,
                completion_row: sequence.completion_row,
                label,
                policy_log_prob: policy,
                reference_log_prob: reference.0,
            });
        } else if let Some(drift) = &mut self.drift {
            drift.check(sequence, policy, reference);
        }
    }
}

// === impl Targets ===

impl Targets<'_> {
    /// Each with its log-probability under the reference, and what that was packed with.
    fn of<'a>(&'a self, given: Given<'a>) -> impl Iterator<Item = (&'a Target, (f64, Packing))> {
        let targets = &given.shard.parts[self.part_idx].targets;
        let references = &given.references.parts[self.part_idx].targets;
        let places = self.indices.iter().map(|&index| index as usize);
        places.map(|place| (&targets[place], references[place]))
    }
}

/// Derivatives of the global loss with respect to the log-probabilities of some targets, f64 `[S]`,
/// on the device that `policy_s` is on, from which nothing is read. Where a log-ratio is not finite
/// the derivative is NaN, so that the gradient of no rank passes for finite.
pub(crate) fn coefficients(
    targets: Targets<'_>,
    policy_s: &Tensor,
    given: Given<'_>,
    objective: &dyn Objective,
) -> Result<Tensor, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let examples: Vec<ExampleLogProbs> = targets
        .of(given)
        .map(|(target, reference)| example(target, f64::NAN, reference.0))
        .collect();
    let columns: [fn(&ExampleLogProbs) -> f64; 4] = [
        |example| example.reference,
        |example| example.num_tokens as f64,
        |example| example.label.sign(),
        |example| example.weight,
    ];
    let values: Vec<f64> = columns.iter().flat_map(|column| examples.iter().map(column)).collect();
    // Four rows in one transfer.
    let rows = upload(&values, policy_s.device())?.f_view([columns.len() as i64, -1])?;
    let row = |idx| rows.f_select(0, idx);
    let batch = BatchLogProbs {
        policy_s: policy_s.shallow_clone(),
        reference_s: row(0)?,
        num_tokens_s: row(1)?,
        sign_s: row(2)?,
        weight_s: row(3)?,
    };
    let coefficients_s = objective.coefficients(&batch, given.point.z0)?;
    // 0 where the log-ratio is finite, else NaN.
    let mark_s = policy_s.f_sub(&batch.reference_s)?.f_mul_scalar(0.0)?;
    let num_examples = f64::from(given.shard.num_examples_global);
    Ok(coefficients_s.f_div_scalar(num_examples)?.f_add(&mark_s)?)
}

fn example(target: &Target, policy: f64, reference: f64) -> ExampleLogProbs {
    ExampleLogProbs {
        policy,
        reference,
        num_tokens: target.sequence.num_completion_tokens() as u64,
        label: target.label,
        weight: target.weight,
    }
}
