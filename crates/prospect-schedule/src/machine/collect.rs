//! What the ranks report about one pass, and its sum over the parts of the global batch.

use prospect_core::{
    Generation, KlSums, PartKlSums, PhaseSeconds, Rank, ReferencePoint, ReferenceValue, ShardKind,
    Step, StepReport, StepSums,
};

/// One pass of the world: a training step or a shard of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PassKey {
    pub(super) step: Step,
    pub(super) kind: ShardKind,
    pub(super) eval_index: u32,
}

/// What has arrived for a pass so far, by rank.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    sums: Vec<Option<Vec<PartKlSums>>>,
    num_sums: usize,
    reports: Vec<Option<StepReport>>,
    num_reports: usize,
    point: Option<ReferencePoint>,
}

/// What all ranks together did in a step or an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The step; of an evaluation, the step after which it was done.
    pub step: Step,
    /// Generation that did it.
    pub generation: Generation,
    /// Number of the attempt.
    pub attempt: u64,
    /// Ranks of that generation.
    pub world_size: u32,
    /// Sums over all parts, added in their order (and that of shards).
    pub sums: StepSums,
    /// Norm of the global gradient before clipping; 0 in evaluation.
    pub grad_norm: f64,
    /// Reference point of the step. Of an evaluation: over the pairs of all its
    /// shards together, for the record; each shard was measured against its own.
    pub point: ReferencePoint,
    /// Seconds in each phase, of the slowest rank in that phase (added over shards).
    pub phase_seconds: PhaseSeconds,
    /// Seconds that the rank which waited longest has waited (added over shards).
    pub waiting_seconds: f64,
    /// Highest memory use of any rank.
    pub peak_memory_bytes: u64,
    /// Reference values that were computed, to be kept with this step; in
    /// evaluation their rows are those of the evaluation data.
    pub reference_values: Vec<ReferenceValue>,
}

/// How a message stands to what arrived before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    /// It is the first.
    New,
    /// It says the same again.
    Repeat,
    /// It says something else than the first.
    Differs,
}

impl Pass {
    pub(super) fn new(world_size: u32) -> Self {
        let world_size = world_size as usize;
        Self {
            sums: vec![None; world_size],
            num_sums: 0,
            reports: vec![None; world_size],
            num_reports: 0,
            point: None,
        }
    }

    pub(super) fn add_sums(&mut self, rank: Rank, sums: Vec<PartKlSums>) -> Receipt {
        put(&mut self.sums[rank.0 as usize], sums, &mut self.num_sums)
    }

    pub(super) fn add_report(&mut self, report: StepReport) -> Receipt {
        put(&mut self.reports[report.rank.0 as usize], report, &mut self.num_reports)
    }

    pub(super) fn has_report(&self, rank: Rank) -> bool {
        self.reports.get(rank.0 as usize).is_some_and(Option::is_some)
    }

    /// Sums of all ranks, added in the order of parts, once all have arrived.
    pub(super) fn merged_sums(&self) -> Option<KlSums> {
        // Asked after every one that arrives.
        if self.num_sums < self.sums.len() {
            return None;
        }
        let mut merged = KlSums::default();
        for parts in &self.sums {
            parts.as_ref()?.iter().for_each(|part| merged.merge(&part.sums));
        }
        Some(merged)
    }

    /// Fixes the reference point of the pass.
    pub(super) fn set_point(&mut self, point: ReferencePoint) {
        self.point = Some(point);
    }

    /// The reference point, once it is known.
    pub(super) fn point(&self) -> Option<ReferencePoint> {
        self.point
    }

    /// Whether all ranks have done the pass.
    pub(super) fn is_complete(&self) -> bool {
        self.num_reports == self.reports.len()
    }

    /// Ranks whose sums are missing although others sent theirs. Without pairs
    /// no rank sends any.
    pub(super) fn ranks_without_sums(&self) -> Vec<Rank> {
        if self.num_sums == 0 {
            return Vec::new();
        }
        let ranks = (0..).map(Rank).zip(&self.sums);
        ranks.filter(|(_, sums)| sums.is_none()).map(|(rank, _)| rank).collect()
    }

    /// Seconds that each rank computed, by rank.
    pub(super) fn computing_seconds(&self) -> Vec<f64> {
        let phases = self.reports.iter().flatten().map(|report| report.phase_seconds);
        phases.map(|phases| phases.scoring + phases.forward_backward).collect()
    }

    /// Adds up what the ranks did.
    pub(super) fn into_commit(self, step: Step) -> Commit {
        let mut commit =
            Commit { step, point: self.point.unwrap_or_default(), ..Commit::default() };
        for (idx, report) in self.reports.into_iter().flatten().enumerate() {
            report.parts.iter().for_each(|part| commit.sums.merge(&part.sums));
            if idx == 0 {
                commit.grad_norm = report.grad_norm;
            }
            commit.phase_seconds = slowest(&commit.phase_seconds, &report.phase_seconds);
            commit.waiting_seconds = commit.waiting_seconds.max(report.phase_seconds.waiting());
            commit.peak_memory_bytes = commit.peak_memory_bytes.max(report.peak_memory_bytes);
            commit.reference_values.extend(report.reference_values);
        }
        commit
    }
}

impl Commit {
    /// Adds a later shard of the same evaluation. The reference point is the caller's.
    pub(super) fn append(&mut self, later: Self) {
        self.sums.merge(&later.sums);
        self.phase_seconds = added(&self.phase_seconds, &later.phase_seconds);
        self.waiting_seconds += later.waiting_seconds;
        self.peak_memory_bytes = self.peak_memory_bytes.max(later.peak_memory_bytes);
        self.reference_values.extend(later.reference_values);
    }
}

/// The first sum of a report that is not finite, by name.
pub(super) fn first_not_finite(report: &StepReport) -> Option<(&'static str, f64)> {
    let of_part = |sums: &StepSums| {
        [
            ("loss", sums.loss),
            ("reward of desirable examples", sums.reward_desirable),
            ("reward of undesirable examples", sums.reward_undesirable),
            ("log-probability of desirable examples", sums.log_prob_desirable),
            ("log-probability of undesirable examples", sums.log_prob_undesirable),
            ("saturation", sums.saturation),
        ]
    };
    let sums = report.parts.iter().flat_map(|part| of_part(&part.sums));
    let mut values = sums.chain([("gradient norm", report.grad_norm)]);
    values.find(|(_, value)| !value.is_finite())
}

/// Puts a value where none is, and counts it.
fn put<T: PartialEq>(place: &mut Option<T>, value: T, count: &mut usize) -> Receipt {
    match place {
        Some(earlier) if *earlier == value => Receipt::Repeat,
        Some(_) => Receipt::Differs,
        None => {
            *place = Some(value);
            *count += 1;
            Receipt::New
        }
    }
}

fn slowest(left: &PhaseSeconds, right: &PhaseSeconds) -> PhaseSeconds {
    combine(left, right, f64::max)
}

fn added(left: &PhaseSeconds, right: &PhaseSeconds) -> PhaseSeconds {
    combine(left, right, |left, right| left + right)
}

fn combine(
    left: &PhaseSeconds,
    right: &PhaseSeconds,
    with: impl Fn(f64, f64) -> f64,
) -> PhaseSeconds {
    PhaseSeconds {
        scoring: with(left.scoring, right.scoring),
        reference_point: with(left.reference_point, right.reference_point),
        forward_backward: with(left.forward_backward, right.forward_backward),
        all_reduce: with(left.all_reduce, right.all_reduce),
        gather: with(left.gather, right.gather),
        commit: with(left.commit, right.commit),
        optimizer: with(left.optimizer, right.optimizer),
        total: with(left.total, right.total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of a rank that waits for the reference point and for sums.
    fn report(rank: u32, reference_point: f64, all_reduce: f64) -> StepReport {
        let phase_seconds =
            PhaseSeconds { reference_point, all_reduce, total: 1.0, ..PhaseSeconds::default() };
        StepReport { rank: Rank(rank), phase_seconds, ..StepReport::default() }
    }

    #[test]
    fn waiting_is_that_of_one_rank() {
        let commit = || {
            let mut pass = Pass::new(2);
            assert_eq!(pass.add_report(report(0, 0.75, 0.125)), Receipt::New);
            assert_eq!(pass.add_report(report(1, 0.25, 0.5)), Receipt::New);
            pass.into_commit(Step(1))
        };
        let mut first = commit();
        assert_eq!(first.waiting_seconds, 0.875);
        // Seconds by phase are of the slowest in each, and come to more than the step.
        assert_eq!(first.phase_seconds.waiting(), 1.25);
        first.append(commit());
        assert_eq!((first.waiting_seconds, first.phase_seconds.total), (1.75, 2.0));
    }
}
