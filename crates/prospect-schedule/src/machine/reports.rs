//! What the ranks say about the passes that were sent to them.

use std::ops::Range;

use prospect_core::{
    Generation, KlSums, PartKlSums, Rank, ShardKind, StepReport, WorkerId, parts_of_rank,
};

use super::action_text::pass;
use super::collect::{Pass, PassKey, Receipt, first_not_finite};
use super::run::RunMachine;
use super::{Action, FailureKind};

impl RunMachine {
    pub(super) fn kl_report(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        key: PassKey,
        parts: Vec<PartKlSums>,
    ) {
        let Some((rank, who)) = self.sender(worker, generation, key, "log-ratio sums") else {
            return;
        };
        let PassKey { step, kind, eval_index } = key;
        let what = pass(step, kind, eval_index);
        if !self.are_own_parts(worker, rank, &what, parts.iter().map(|part| part.part)) {
            return;
        }
        if let Some(part) = parts.iter().find(|part| !part.sums.is_finite()) {
            let KlSums { sum, sum_of_squares, count } = part.sums;
            let what = format!(
                "the log-ratio sums {what} from {who} are not finite (sum {sum}, sum of squares \
                 {sum_of_squares} over {count} mismatched pairs)"
            );
            return self.fail(FailureKind::NotFinite, &what);
        }
        match self.pass_mut(key).add_sums(rank, parts) {
            Receipt::Repeat => return,
            Receipt::Differs => {
                let message = format!("{who} sends other log-ratio sums {what}; the first stay");
                return self.ignore(step, message);
            }
            Receipt::New => self.saw_progress(worker),
        }
        let Some(merged) = self.pass_mut(key).merged_sums() else { return };
        if !merged.is_finite() {
            let what = format!("the log-ratio sums {what} over all ranks are not finite");
            return self.fail(FailureKind::NotFinite, &what);
        }
        let point = merged.reference_point();
        self.pass_mut(key).set_point(point);
        // Those of an earlier coordinator hear it when all are back.
        if self.adoption.is_none() {
            self.act(Action::SendReferencePoint { step, kind, eval_index, point, to: None });
        }
    }

    pub(super) fn step_report(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        mut report: StepReport,
    ) {
        let StepReport { step, kind, eval_index, .. } = report;
        let key = PassKey { step, kind, eval_index };
        let Some((rank, who)) = self.sender(worker, generation, key, "a report") else { return };
        report.rank = rank;
        let what = pass(step, kind, eval_index);
        if !self.are_own_parts(worker, rank, &what, report.parts.iter().map(|part| part.part)) {
            return;
        }
        if let Some((name, value)) = first_not_finite(&report) {
            let what = format!("the {name} {what} from {who} is not finite ({value})");
            return self.fail(FailureKind::NotFinite, &what);
        }
        if let Some(member) = self.members.get_mut(worker) {
            member.step = member.step.max(step);
            member.peak_memory_bytes = member.peak_memory_bytes.max(report.peak_memory_bytes);
        }
        match self.pass_mut(key).add_report(report) {
            Receipt::New => {
                self.saw_progress(worker);
                self.advance();
            }
            Receipt::Repeat => {}
            Receipt::Differs => {
                let message = format!("{who} sends another report {what}; the first stays");
                self.ignore(step, message);
            }
        }
    }

    /// The rank of who sends a report, and the name in words, if the report may count: it is of
    /// this generation and about a pass that is in flight. What is repeated about one that is
    /// done, or comes from an earlier generation, is dropped without a word.
    fn sender(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        key: PassKey,
        what: &str,
    ) -> Option<(Rank, String)> {
        self.members.heard(worker, self.now);
        if !self.is_current(generation) {
            return None;
        }
        let Some(rank) = self.members.rank_of(worker) else {
            let message = format!("worker {worker} sends {what} but is not part of the world");
            self.ignore(key.step, message);
            return None;
        };
        let who = self.members.get(worker).map(|member| member.describe())?;
        let is_expected = self.adoption.is_some() && self.may_be_in_flight(key);
        if is_expected || self.pipeline.in_flight().any(|sent| sent == key) {
            return Some((rank, who));
        }
        if !self.pipeline.is_done(key) {
            let pass = pass(key.step, key.kind, key.eval_index);
            self.ignore(key.step, format!("{who} sends {what} {pass}, which was not sent to it"));
        }
        None
    }

    /// Whether an earlier coordinator may have sent this pass last.
    fn may_be_in_flight(&self, key: PassKey) -> bool {
        let committed = self.pipeline.committed;
        let lookahead = u64::from(self.options.lookahead_steps.max(1));
        match key.kind {
            ShardKind::Train => key.step > committed && key.step.0 - committed.0 <= lookahead,
            ShardKind::Eval => {
                key.step == committed && key.eval_index < self.options.num_eval_shards
            }
        }
    }

    /// Whether a report is about the parts of its rank. One that is not comes from a worker that
    /// cannot be trusted with any.
    fn are_own_parts(
        &mut self,
        worker: &WorkerId,
        rank: Rank,
        what: &str,
        parts: impl Iterator<Item = u32>,
    ) -> bool {
        let own: Range<u32> = parts_of_rank(rank, self.world.size, self.num_parts());
        let sent: Vec<u32> = parts.collect();
        let are_own = sent.iter().copied().eq(own.clone());
        if !are_own {
            let cause = format!("it reports parts {sent:?} {what} instead of {own:?}");
            self.lose(worker, &cause);
        }
        are_own
    }

    fn pass_mut(&mut self, key: PassKey) -> &mut Pass {
        let world_size = self.world.size;
        self.passes.entry(key).or_insert_with(|| Pass::new(world_size))
    }

    /// The first pass in flight that a rank has not done.
    pub(super) fn first_owed(&self, rank: Rank) -> Option<PassKey> {
        let has_done =
            |key: &PassKey| self.passes.get(key).is_some_and(|pass| pass.has_report(rank));
        self.pipeline.in_flight().find(|key| !has_done(key))
    }
}
