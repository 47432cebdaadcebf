//! Steps and evaluations: reports come in, sums are merged, the next shards go out.

use prospect_core::{KlSums, Rank, ShardKind, Step, StepReport};

use super::action::pass;
use super::checkpoints::Saved;
use super::collect::{Pass, PassKey, Receipt, first_not_finite};
use super::pipeline::{Evaluation, Next};
use super::run::{RunMachine, steps};
use super::{Action, FailureKind, Member, Phase};

/// Reports.
impl RunMachine {
    pub(super) fn kl_report(&mut self, rank: Rank, key: PassKey, sums: KlSums) {
        let Some(who) = self.report_is_welcome(rank, key, "log-ratio sums") else { return };
        let what = pass(key.step, key.kind, key.eval_index);
        if !sums.is_finite() {
            let KlSums { sum, sum_of_squares, count } = sums;
            let what = format!(
                "the log-ratio sums {what} from {who} are not finite (sum {sum}, sum of squares \
                 {sum_of_squares} over {count} mismatched pairs)"
            );
            return self.fail(FailureKind::NotFinite, &what);
        }
        let entry = self.pass_mut(key);
        match entry.add_sums(rank, sums) {
            Receipt::Repeat => return,
            Receipt::Differs => {
                let message = format!("{who} sends other log-ratio sums {what}; the first stay");
                return self.ignore(key.step, message);
            }
            Receipt::New => {}
        }
        let Some(merged) = entry.merged_sums() else { return };
        if !merged.is_finite() {
            let what = format!("the log-ratio sums {what} over all ranks are not finite");
            return self.fail(FailureKind::NotFinite, &what);
        }
        let point = merged.reference_point();
        entry.set_point(point);
        let PassKey { step, kind, eval_index } = key;
        self.act(Action::SendReferencePoint { step, kind, eval_index, point });
    }

    pub(super) fn step_report(&mut self, report: StepReport) {
        let StepReport { rank, step, kind, eval_index, .. } = report;
        let key = PassKey { step, kind, eval_index };
        let Some(who) = self.report_is_welcome(rank, key, "a report") else { return };
        let what = pass(step, kind, eval_index);
        if let Some((name, value)) = first_not_finite(&report) {
            let what = format!("the {name} {what} from {who} is not finite ({value})");
            return self.fail(FailureKind::NotFinite, &what);
        }
        if let Some(member) = self.members.of_rank_mut(rank) {
            member.step = member.step.max(step);
            member.peak_memory_bytes = member.peak_memory_bytes.max(report.peak_memory_bytes);
        }
        match self.pass_mut(key).add_report(report) {
            Receipt::New => self.advance(),
            Receipt::Repeat => {}
            Receipt::Differs => {
                let message = format!("{who} sends another report {what}; the first stays");
                self.ignore(step, message);
            }
        }
    }

    /// Whether a report is about a pass that is in flight; if so, who sent it.
    /// A repeat about one that is done is dropped without a word.
    fn report_is_welcome(&mut self, rank: Rank, key: PassKey, what: &str) -> Option<String> {
        let Some(member) = self.members.of_rank_mut(rank) else {
            let size = self.options.world_size;
            let message = format!("rank {rank} sends {what} but the world has {size} ranks");
            self.ignore(key.step, message);
            return None;
        };
        member.last_heard = self.now;
        let who = member.describe();
        if self.pipeline.in_flight().any(|sent| sent == key) {
            return Some(who);
        }
        let is_done = match key.kind {
            ShardKind::Train => key.step <= self.pipeline.committed,
            ShardKind::Eval => {
                let running = self.pipeline.evaluation.as_ref();
                let done_of_this =
                    running.is_some_and(|e| e.step == key.step && key.eval_index < e.num_done);
                key.step <= self.pipeline.evaluated || done_of_this
            }
        };
        if !is_done {
            let pass = pass(key.step, key.kind, key.eval_index);
            self.ignore(key.step, format!("{who} sends {what} {pass}, which was not sent to it"));
        }
        None
    }

    fn pass_mut(&mut self, key: PassKey) -> &mut Pass {
        let world_size = self.options.world_size;
        self.passes.entry(key).or_insert_with(|| Pass::new(world_size))
    }

    /// Whether nothing more is expected of a worker but to go.
    pub(super) fn has_done_everything(&self, member: &Member) -> bool {
        let is_ending = self.is_ending();
        let Some(rank) = member.rank else { return is_ending };
        // Rank 0 is needed until the last file is written.
        let holds_files = rank == Rank(0) && !self.is_everything_durable();
        let owes = self
            .pipeline
            .in_flight()
            .any(|key| !self.passes.get(&key).is_some_and(|pass| pass.has_report(rank)));
        is_ending && !holds_files && !owes
    }

    /// Whether every file that is to be written is.
    pub(super) fn is_everything_durable(&self) -> bool {
        let trained = self.phase != Phase::Finishing || self.final_saved;
        trained && !self.checkpoints.any_pending()
    }
}

/// Going on.
impl RunMachine {
    /// Commits what is complete and sends what may be sent.
    pub(super) fn advance(&mut self) {
        while self.commit_next() {}
        while self.stop.is_none() && !self.phase.is_terminal() {
            match self.pipeline.next(&self.options) {
                Next::Wait => break,
                Next::Send(key) => self.send(key),
                Next::Evaluate(step) => {
                    self.pipeline.evaluation = Some(Evaluation::new(step));
                    let reason = format!("evaluating after step {step}");
                    self.enter(Phase::Evaluating, reason);
                }
                Next::Finish if self.phase == Phase::Finishing => break,
                Next::Finish => {
                    let path = self.options.final_path.clone();
                    self.act(Action::SendFinish { path });
                    let done = match self.options.total_steps {
                        1 => "the step is done".into(),
                        count => format!("all {} are done", steps(count)),
                    };
                    let reason = format!("{done}; saving the trained model");
                    self.enter(Phase::Finishing, reason);
                }
            }
        }
        self.check_end();
    }

    fn send(&mut self, key: PassKey) {
        let PassKey { step, kind, eval_index } = key;
        let is_train = kind == ShardKind::Train;
        let checkpoint_after = is_train && self.options.checkpoint_after(step);
        match &mut self.pipeline.evaluation {
            Some(evaluation) => evaluation.num_sent += 1,
            None => self.pipeline.sent = step,
        }
        if checkpoint_after {
            self.checkpoints.order(step);
        }
        self.act(Action::SendShard { step, kind, eval_index, checkpoint_after });
    }

    /// Commits the oldest pass in flight if all ranks have done it.
    fn commit_next(&mut self) -> bool {
        let Some(key) = self.pipeline.in_flight().next() else { return false };
        let is_complete = self.passes.get(&key).is_some_and(Pass::is_complete);
        if self.phase.is_terminal() || !is_complete {
            return false;
        }
        let Some(pass) = self.passes.remove(&key) else { return false };
        let silent = pass.ranks_without_sums();
        if let Some(rank) = silent.first() {
            let what = format!(
                "rank {rank} has done step {} without log-ratio sums although other ranks sent \
                 theirs",
                key.step
            );
            self.fail(FailureKind::Internal, &what);
            return false;
        }
        let kl_sums = pass.merged_sums().unwrap_or_default();
        let commit = pass.into_commit(key.step);
        match &mut self.pipeline.evaluation {
            None => {
                self.pipeline.committed = key.step;
                self.act(Action::CommitStep(commit));
                self.settle_checkpoints();
            }
            Some(evaluation) => {
                evaluation.kl_sums.merge(&kl_sums);
                evaluation.commit.append(commit);
                evaluation.num_done += 1;
                if evaluation.num_done == self.options.num_eval_shards {
                    self.commit_evaluation();
                }
            }
        }
        true
    }

    fn commit_evaluation(&mut self) {
        let Some(evaluation) = self.pipeline.evaluation.take() else { return };
        let step = evaluation.step;
        self.pipeline.evaluated = step;
        let point = evaluation.kl_sums.reference_point();
        self.act(Action::CommitEval(super::Commit { point, ..evaluation.commit }));
        let reason = format!("the evaluation after step {step} is done");
        self.enter(Phase::Training, reason);
    }
}

/// Files.
impl RunMachine {
    pub(super) fn checkpoint_saved(&mut self, step: Step, path: String, manifest_sha256: String) {
        if let Some(member) = self.members.of_rank_mut(Rank(0)) {
            member.last_heard = self.now;
        }
        if self.checkpoints.is_durable(step) {
            return;
        }
        if !self.checkpoints.is_ordered(step) {
            let message = format!("a checkpoint of step {step} was saved but not ordered");
            return self.ignore(step, message);
        }
        self.checkpoints.save(step, Saved { path, manifest_sha256 });
        self.settle_checkpoints();
        self.check_end();
    }

    /// Puts checkpoints on record whose steps are. A run that goes on from one
    /// needs the metrics of all steps up to it.
    fn settle_checkpoints(&mut self) {
        for (step, saved) in self.checkpoints.settle(self.pipeline.committed) {
            let Saved { path, manifest_sha256 } = saved;
            self.act(Action::CheckpointDurable { step, path, manifest_sha256 });
        }
    }

    pub(super) fn trained_model_saved(&mut self, path: &str) {
        if let Some(member) = self.members.of_rank_mut(Rank(0)) {
            member.last_heard = self.now;
        }
        if self.phase != Phase::Finishing {
            let message = format!("a trained model was saved to {path} but not ordered");
            return self.ignore(self.pipeline.committed, message);
        }
        self.final_saved = true;
        self.check_end();
    }
}
